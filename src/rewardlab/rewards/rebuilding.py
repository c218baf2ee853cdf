"""The parts of a cycle that a recipe names: what rebuilds an original, and how alike two texts are."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_prompt
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.cycle import CycleConsistency
from rewardlab.rewards.diversity import StateDistances, ngram_distances

Similarity = Callable[[list[Any], list[Any]], Sequence[float]]
INSTRUCTION = "What does this describe? Reply with it alone.\n\n{answer}"


class Decoder:
    """A policy's greedy answer to an instruction about each text; None for an empty text or answer.

    Texts are answered one at a time, so nothing depends on which others there are.
    """

    def __init__(self, engine: Engine, instruction: str = INSTRUCTION, *, max_new_tokens: int = 64) -> None:
        fields = {field for _, field, _, _ in string.Formatter().parse(instruction) if field is not None}
        if fields != {"answer"}:
            raise UserError(
                f"the decoder's instruction has the fields {sorted(fields)}.",
                "Write it with {answer}, where the description goes; double other braces.",
            )
        self.engine, self.instruction, self.max_new_tokens = engine, instruction, max_new_tokens

    def __call__(self, texts: list[str]) -> list[str | None]:
        """One answer per text."""
        return [self._rebuilt(text) if text.strip() else None for text in texts]

    def _rebuilt(self, text: str) -> str | None:
        model = self.engine.model
        asked = Prompt((Message("user", self.instruction.format(answer=text)),))
        ids = torch.tensor([render_prompt(model.tokenizer, asked)], device=model.device)
        stop = list(model.stop_ids)
        with self.engine.frozen():
            out = model.hf.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                eos_token_id=stop or None,
                pad_token_id=stop[0] if stop else 0,
            )
        found: str = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return found.strip() or None


def by_ngrams(n: int) -> Similarity:
    """|A and B| / |A or B| of the n-gram sets of two texts."""

    def similarity(originals: list[Any], rebuilt: list[Any]) -> list[float]:
        return [1 - ngram_distances((_text(a), b), n)[0, 1] for a, b in zip(originals, rebuilt, strict=True)]

    return similarity


def by_states(engine: Engine) -> Similarity:
    """(1 + cosine) / 2 of a model's mean hidden states of two texts."""
    distances = StateDistances(engine)

    def similarity(originals: list[Any], rebuilt: list[Any]) -> list[float]:
        table = distances([*map(_text, originals), *rebuilt])
        n = len(originals)
        return [float(1 - table[i, n + i]) for i in range(n)]

    return similarity


def by_reward(reward: Reward, field: str) -> Similarity:
    """A reward's value of the rebuilt text as an answer, with the original as prompt and in its meta."""

    def similarity(originals: list[Any], rebuilt: list[Any]) -> list[float]:
        rows = [
            Rollout(Prompt((Message("user", _text(a)),), meta={field: a}), Tokens((0,), (False,)), b)
            for a, b in zip(originals, rebuilt, strict=True)
        ]
        return [math.nan if s.value is None else s.value for s in reward.score(rows)]

    return similarity


def _text(original: Any) -> str:
    return " ".join(map(str, original)) if isinstance(original, list | tuple) else str(original)


class CycleSettings(RewardSettings):
    """How much of an original a decoder rebuilds from the answer that describes it; needs no label."""

    kind: Literal["cycle"] = "cycle"
    decoder: str
    """The policy that rebuilds and never learns: `base`, a stage or a folder. The learner is the encoder."""
    field: str = "x"
    """Meta field of the prompt with the original: a text, or a list of words."""
    instruction: str = INSTRUCTION
    """What the decoder is asked, with `{answer}` for the description."""
    max_new_tokens: int = Field(default=64, ge=1)
    similarity: str = "ngram"
    """`ngram`, `embedding`, or the name of a reward that scores the rebuilt text as an answer, with the
    original in its prompt and under `field` in its meta."""
    n: int = Field(default=1, ge=1)
    """Length of the n-grams."""
    model: str | None = None
    """Whose hidden states are the embedding; None: the decoder's."""
    invalid: float = 0.0
    """Value of an answer from which nothing can be rebuilt."""

    def references(self) -> list[str]:
        """The decoder, and what measures similarity."""
        measures = [] if self.similarity in ("ngram", "embedding") else [self.similarity]
        return [self.decoder, *measures, *([self.model] if self.model is not None else [])]

    def build(self, name: str, resolver: Resolver) -> CycleConsistency:
        """The reward."""
        decoder = resolver.policy(self.decoder)
        if self.similarity == "ngram":
            similarity = by_ngrams(self.n)
        elif self.similarity == "embedding":
            similarity = by_states(decoder if self.model is None else resolver.policy(self.model))
        else:
            similarity = by_reward(resolver.reward(self.similarity), self.field)
        decode = Decoder(decoder, self.instruction, max_new_tokens=self.max_new_tokens)
        return CycleConsistency(name, decode, similarity, field=self.field, invalid=self.invalid)
