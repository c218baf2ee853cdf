"""The in-process sampler: prompts prefilled once per group, KV cache, one uniform draw per token.

What it leaves out on purpose: top-p and top-k. With them the recorded log-prob is not that of the
distribution that was sampled from, so every importance ratio would be wrong.
"""

from __future__ import annotations

import torch

from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.settings import Settings
from rewardlab.core.types import Prompt, Rollout, Sequence, StopReason
from rewardlab.models.engine import Engine
from rewardlab.rollout.cached import CachedDecoder
from rewardlab.rollout.decoding import Decoder, Queue
from rewardlab.rollout.stopping import Stopping


class SamplerSettings(Settings):
    """How answers are drawn."""

    samples_per_prompt: int = 1
    max_new_tokens: int = 64
    """An answer that reaches it without a stop token or text has stop reason `length`."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token (evaluation only)."""
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""
    rows_per_batch: int = 256
    """Answers decoded side by side at most; never changes a draw."""
    cache_mib: int = 1024
    """Bound of the memory for answers' keys and values; with less room, fewer are decoded side by side."""


def drawing(settings: Settings) -> SamplerSettings:
    """How answers are drawn, as far as other settings say it in fields of the same names."""
    return SamplerSettings(**settings.model_dump(include=set(SamplerSettings.model_fields)))


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
        # Prompts of similar length are decoded together; the answers go back to their places.
        order = [
            i * n + j for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])) for j in range(n)
        ]
        engine = self.engine
        with progress.task("sampling", len(order)) as task, engine.decoding() as states:
            queue = Queue(
                prompts,
                [a // n for a in order],
                draws[torch.tensor(order, dtype=torch.long)],
                temperature=s.temperature,
                places=self._places(),
                stopping=Stopping(engine.model, s.stop_sequences),
                advance=task.advance,
            )
            decoder = Decoder(engine, states, queue) if engine.plans else CachedDecoder(engine, queue)
            answers = decoder.run()
        found = {a: answers.row(row) for row, a in enumerate(order)}
        return [
            [self._sequence(p, *found[i * n + j], version) for j in range(n)] for i, p in enumerate(prompts)
        ]

    def _places(self) -> int:
        """Answers side by side: as many as the settings and the memory for their keys and values allow."""
        config = self.engine.model.hf.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        row = 2 * 4 * config.num_hidden_layers * heads * size * self.settings.max_new_tokens
        return max(1, min(self.settings.rows_per_batch, self.settings.cache_mib * 2**20 // row))

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
