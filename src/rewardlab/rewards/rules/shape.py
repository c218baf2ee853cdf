"""The outer form of an answer: length, patterns, tags, repetition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.rules.rule import Rule

Unit = Literal["words", "characters", "tokens"]


def length_of(rollout: Rollout, unit: Unit) -> int:
    """Words between white space, characters, or tokens that the policy chose."""
    if unit == "tokens":
        return rollout.sequence.actions
    return len(rollout.text.split()) if unit == "words" else len(rollout.text)


class TextLength(Composable):
    """Number of whitespace-separated words, a baseline that any learned reward must beat."""

    name = "length"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [Score(float(length_of(r, "words"))) for r in rollouts]


def band(length: float, low: float, high: float, width: float) -> float:
    """1 inside [low, high], falling linearly to 0 at a distance of `width` from it (0: at once)."""
    outside = max(low - length, length - high, 0.0)
    if not outside:
        return 1.0
    return max(0.0, 1.0 - outside / width) if width else 0.0


class LengthBandSettings(RewardSettings):
    """1 for a length between two bounds, falling to 0 outside."""

    kind: Literal["length_band"] = "length_band"
    unit: Unit = "words"
    minimum: int = Field(default=0, ge=0)
    maximum: int = Field(ge=0)
    slope: float = Field(default=0.0, ge=0)
    """How far outside the band the reward reaches 0, in units; 0: at once."""

    @model_validator(mode="after")
    def _ordered(self) -> LengthBandSettings:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; the part `length` has the length itself."""

        def judge(rollout: Rollout) -> dict[str, float]:
            length = length_of(rollout, self.unit)
            return {"in_band": band(length, self.minimum, self.maximum, self.slope), "length": length}

        return Rule(name, judge, self)


class PatternSettings(RewardSettings):
    """1 if a regular expression matches, else 0."""

    kind: Literal["pattern"] = "pattern"
    pattern: str
    """Python regular expression; write `(?s)` for a dot that matches line breaks."""
    whole: bool = False
    """The expression must match the whole answer, not a place in it."""
    absent: bool = False
    """Reward answers in which it does not match."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule."""
        expression = re.compile(self.pattern)
        look = expression.fullmatch if self.whole else expression.search
        return Rule(name, lambda r: float((look(r.text) is not None) != self.absent), self)


def tag_order(text: str, tags: Sequence[str], *, whole: bool) -> tuple[bool, float]:
    """Whether every tag opens and closes exactly once, in this order, and the share of tags that do so
    somewhere. `whole`: nothing but white space may stand outside of them."""
    once = [text.count(f"<{t}>") == 1 == text.count(f"</{t}>") for t in tags]
    gap = r"\s*" if whole else r".*?"
    inner = gap.join(rf"<{re.escape(t)}>.*?</{re.escape(t)}>" for t in tags)
    ordered = re.fullmatch(gap + inner + gap, text, re.DOTALL) is not None
    return ordered and all(once), sum(once) / len(tags)


class TagsSettings(RewardSettings):
    """1 if the answer is `<think>...</think>` and then `<answer>...</answer>`, each once, else 0."""

    kind: Literal["tags"] = "tags"
    tags: list[str] = Field(default=["think", "answer"], min_length=1)
    """In the order in which they must stand."""
    whole: bool = True
    """Nothing but white space may stand outside the tags."""
    partial: float = Field(default=0.0, ge=0, le=1)
    """Value of all tags in the wrong order or form; less in proportion to the tags that are there once."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; the part `tags` is the share of tags that stand there once."""

        def judge(rollout: Rollout) -> dict[str, float]:
            right, share = tag_order(rollout.text, self.tags, whole=self.whole)
            return {"format": 1.0 if right else self.partial * share, "tags": share}

        return Rule(name, judge, self)


def repetition(words: Sequence[str], size: int) -> float:
    """1 - distinct n-grams / n-grams: 0 when nothing is said twice; 0 for fewer than `size` words."""
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


class RepetitionSettings(RewardSettings):
    """value = -penalty * share of repeated n-grams of lower-cased words."""

    kind: Literal["repetition"] = "repetition"
    size: int = Field(default=3, ge=1)
    """The n of the n-grams."""
    penalty: float = Field(default=1.0, ge=0)

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; the part `repeated` is the share."""

        def judge(rollout: Rollout) -> dict[str, float]:
            share = repetition(rollout.text.lower().split(), self.size)
            return {"repetition": -self.penalty * share, "repeated": share}

        return Rule(name, judge, self)
