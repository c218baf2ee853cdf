"""The in-process sampler: prompts prefilled once per group, KV cache, one uniform draw per token.

What it leaves out on purpose: top-p and top-k. With them the recorded log-prob is not that of the
distribution that was sampled from, so every importance ratio would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache

from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.settings import Settings
from rewardlab.core.types import Prompt, Rollout, Sequence, StopReason
from rewardlab.models.engine import Engine
from rewardlab.models.head import logits_of


class SamplerSettings(Settings):
    """How answers are drawn."""

    samples_per_prompt: int = 1
    max_new_tokens: int = 64
    """An answer that reaches it without a stop token has stop reason `length`."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token (evaluation only)."""
    rows_per_batch: int = 256
    """Answers decoded side by side; bounds the KV cache's memory, never changes a draw."""


class Sampler:
    """Draws answers from the engine's model as it is at the moment of the call."""

    def __init__(self, engine: Engine, settings: SamplerSettings) -> None:
        self.engine = engine
        self.settings = settings

    def sample(
        self,
        prompts: list[list[int]],
        generator: torch.Generator,
        *,
        version: int = 0,
        progress: Progress = NO_PROGRESS,
    ) -> list[list[Sequence]]:
        """`samples_per_prompt` sequences for each prompt's ids, grouped like the prompts.

        All uniforms are drawn before decoding, one row of `max_new_tokens` per answer, so the answers
        depend on the seed and not on how rows are batched or when others finish.
        """
        s = self.settings
        n = s.samples_per_prompt
        draws = torch.rand((len(prompts) * n, s.max_new_tokens), generator=generator, dtype=torch.float64)
        # Prompts of similar length share a batch; the answers go back to their places.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        step = max(1, s.rows_per_batch // n)
        groups: list[list[Sequence]] = [[] for _ in prompts]
        with progress.task("sampling", len(prompts)) as task:
            for start in range(0, len(order), step):
                chunk = order[start : start + step]
                rows = torch.tensor([i * n + j for i in chunk for j in range(n)])
                with self.engine.frozen():
                    answers = list(self._decode([prompts[i] for i in chunk], draws[rows]))
                for k, i in enumerate(chunk):
                    for ids, logp, stop in answers[k * n : (k + 1) * n]:
                        groups[i].append(self._sequence(prompts[i], ids, logp, stop, version))
                task.advance(len(chunk))
        return groups

    def _sequence(
        self, prompt: list[int], ids: list[int], logp: list[float], stop: StopReason, version: int
    ) -> Sequence:
        zeros = [0.0] * len(prompt)
        return Sequence(
            ids=(*prompt, *ids),
            action=(*(False for _ in prompt), *(True for _ in ids)),
            logp=(*zeros, *logp),
            temperature=self.settings.temperature or 1.0,
            version=version,
            stop=stop,
        )

    def _decode(
        self, prompts: list[list[int]], draws: Tensor
    ) -> Iterator[tuple[list[int], list[float], StopReason]]:
        """Ids, log-probs and stop reason of each answer, prompts times samples rows in order."""
        s, model = self.settings, self.engine.model
        device = model.device
        width, rows = max(map(len, prompts)), draws.shape[0]
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for i, p in enumerate(prompts):
            ids[i, width - len(p) :] = torch.tensor(p)
            mask[i, width - len(p) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = DynamicCache(config=model.hf.config)
        hidden = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        n = s.samples_per_prompt
        if n > 1:
            cache.batch_repeat_interleave(n)
        mask, hidden = mask.repeat_interleave(n, 0), hidden.repeat_interleave(n, 0)
        draws = draws.to(device)
        stops = torch.tensor(model.stop_ids, device=device)
        out_ids = torch.zeros(rows, s.max_new_tokens, dtype=torch.long, device=device)
        out_logp = torch.zeros(rows, s.max_new_tokens, device=device)
        length = torch.full((rows,), s.max_new_tokens, device=device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        alive = torch.arange(rows, device=device)
        for t in range(s.max_new_tokens):
            with self.engine.autocast():
                token, logp = self._draw(logits_of(model.hf, hidden), draws[alive, t])
            out_ids[alive, t], out_logp[alive, t] = token, logp
            done = torch.isin(token, stops)
            stopped[alive[done]], length[alive[done]] = True, t + 1
            if t + 1 == s.max_new_tokens or bool(done.all()):
                break
            if bool(done.any()):
                keep = (~done).nonzero().squeeze(-1)
                cache.batch_select_indices(keep)
                alive, mask, token = alive[keep], mask[keep], token[keep]
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
            position = mask.sum(1, keepdim=True) - 1
            hidden = self._forward(token[:, None], mask, position, cache)
        for i, end in enumerate(length.tolist()):
            reason: StopReason = "stop" if stopped[i] else "length"
            yield out_ids[i, :end].tolist(), out_logp[i, :end].tolist(), reason

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
        """Float[rows, H]: the hidden state of each row's last token; the cache grows."""
        with self.engine.autocast():
            out = self.engine.model.hf.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
        last: Tensor = out.last_hidden_state[:, -1]
        return last

    def _draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse-CDF sampling: the first token whose cumulative probability exceeds u."""
        if self.settings.temperature == 0:
            logp = logits.log_softmax(-1)
            token = logp.argmax(-1)
        else:
            logp = (logits / self.settings.temperature).log_softmax(-1)
            cdf = logp.double().exp().cumsum(-1)
            token = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True).squeeze(-1)
            token = token.clamp(max=logits.shape[-1] - 1)
        return token, logp.gather(-1, token[:, None]).squeeze(-1)


def to_rollouts(
    prompts: list[Prompt], groups: list[list[Sequence]], engine: Engine, *, first_group: int = 0
) -> list[Rollout]:
    """Attach prompts and decoded text (stop token and other specials removed); group numbers count up."""
    tokenizer = engine.model.tokenizer
    rollouts = []
    for g, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        for sequence in group:
            answer = [i for i, a in zip(sequence.ids, sequence.action, strict=True) if a]
            text = tokenizer.decode(answer, skip_special_tokens=True)
            rollouts.append(Rollout(prompt, sequence, text, first_group + g))
    return rollouts
