"""Decoding for networks whose attention follows no plan: left-padded prompts and transformers' own cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache

from rewardlab.models.engine import Engine
from rewardlab.models.head import logits_of
from rewardlab.rollout.decoding import Answers
from rewardlab.rollout.draw import draw


class CachedDecoder:
    """Decodes a queue of answers, `places` at a time, each lot to its end. One use each."""

    def __init__(
        self,
        engine: Engine,
        prompts: list[list[int]],
        prompt_of: list[int],
        uniforms: Tensor,
        *,
        temperature: float,
        places: int,
        advance: Callable[[int], None],
    ) -> None:
        """As of `Decoder`."""
        self.engine, self.prompts, self.prompt_of = engine, prompts, prompt_of
        self.uniforms, self.temperature = uniforms.to(engine.model.device), temperature
        self.places, self.advance = places, advance

    def run(self) -> Answers:
        """Decode everything."""
        starts = range(0, len(self.prompt_of), self.places)
        lots = [self._decode(list(range(len(self.prompt_of)))[s : s + self.places]) for s in starts]
        return Answers(*(torch.cat(column) for column in zip(*lots, strict=True)))

    def _decode(self, lot: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        model, uniforms = self.engine.model, self.uniforms[lot[0] : lot[-1] + 1]
        device, (rows, most) = model.device, uniforms.shape
        prompts = list(dict.fromkeys(self.prompt_of[a] for a in lot))
        width = max(len(self.prompts[p]) for p in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, p in enumerate(self.prompts[p] for p in prompts):
            ids[row, width - len(p) :] = torch.tensor(p)
            mask[row, width - len(p) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = DynamicCache(config=model.hf.config)
        hidden = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        prompt_of = torch.tensor([prompts.index(self.prompt_of[a]) for a in lot], device=device)
        cache.batch_select_indices(prompt_of)
        mask, hidden = mask[prompt_of], hidden[prompt_of]
        stops = torch.tensor(model.stop_ids, device=device)
        out_ids = torch.zeros(rows, most, dtype=torch.long, device=device)
        out_logp = torch.zeros(rows, most, device=device)
        length = torch.full((rows,), most, device=device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        alive = torch.arange(rows, device=device)
        for t in range(most):
            token, logp = draw(logits_of(model.hf, hidden), uniforms[alive, t], self.temperature)
            out_ids[alive, t], out_logp[alive, t] = token, logp
            done = torch.isin(token, stops)
            stopped[alive[done]], length[alive[done]] = True, t + 1
            if t + 1 == most or bool(done.all()):
                break
            if bool(done.any()):
                keep = (~done).nonzero().squeeze(-1)
                cache.batch_select_indices(keep)
                alive, mask, token = alive[keep], mask[keep], token[keep]
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
            hidden = self._forward(token[:, None], mask, mask.sum(1, keepdim=True) - 1, cache)
        self.advance(rows)
        return out_ids, out_logp, length, stopped

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
        """Float[rows, H]: the hidden state of each row's last token; the cache grows."""
        out = self.engine.model.hf.base_model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        last: Tensor = out.last_hidden_state[:, -1]
        return last
