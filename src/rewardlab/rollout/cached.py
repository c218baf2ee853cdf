"""Decoding for networks whose attention follows no plan: left-padded prompts and transformers' own cache."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from rewardlab.models.engine import Engine
from rewardlab.models.head import logits_of
from rewardlab.rollout.decoding import Answers, Queue
from rewardlab.rollout.draw import draw


class CachedDecoder:
    """Decodes a queue, as many answers at a time as there are places, each lot to its end."""

    def __init__(self, engine: Engine, queue: Queue) -> None:
        self.engine, self.todo = engine, queue

    def run(self) -> Answers:
        """Decode everything."""
        answers = list(range(len(self.todo.prompt_of)))
        step = self.todo.places
        lots = [self._decode(answers[s : s + step]) for s in range(0, len(answers), step)]
        return Answers(*(torch.cat(column) for column in zip(*lots, strict=True)))

    def _decode(self, lot: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        model = self.engine.model
        device = model.device
        uniforms = self.todo.uniforms[lot[0] : lot[-1] + 1].to(device)
        rows, most = uniforms.shape
        prompts = list(dict.fromkeys(self.todo.prompt_of[a] for a in lot))
        width = max(len(self.todo.prompts[p]) for p in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, p in enumerate(self.todo.prompts[p] for p in prompts):
            ids[row, width - len(p) :] = torch.tensor(p)
            mask[row, width - len(p) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = DynamicCache(config=model.hf.config)
        hidden = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        prompt_of = torch.tensor([prompts.index(self.todo.prompt_of[a]) for a in lot], device=device)
        cache.batch_select_indices(prompt_of)
        mask, hidden = mask[prompt_of], hidden[prompt_of]
        out_ids = torch.zeros(rows, most, dtype=torch.long, device=device)
        out_logp = torch.zeros(rows, most, device=device)
        length = torch.full((rows,), most, device=device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        alive = torch.arange(rows, device=device)
        for t in range(most):
            token, logp = draw(logits_of(model.hf, hidden), uniforms[alive, t], self.todo.temperature)
            out_ids[alive, t], out_logp[alive, t] = token, logp
            done = self.todo.stopping(out_ids[alive], torch.full_like(alive, t))
            stopped[alive[done]], length[alive[done]] = True, t + 1
            if t + 1 == most or bool(done.all()):
                break
            if bool(done.any()):
                keep = (~done).nonzero().squeeze(-1)
                cache.batch_select_indices(keep)
                alive, mask, token = alive[keep], mask[keep], token[keep]
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
            hidden = self._forward(token[:, None], mask, mask.sum(1, keepdim=True) - 1, cache)
        self.todo.advance(rows)
        return out_ids, out_logp, length, stopped

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
        """Float[rows, H]: the hidden state of each row's last token; the cache grows."""
        out = self.engine.model.hf.base_model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        last: Tensor = out.last_hidden_state[:, -1]
        return last
