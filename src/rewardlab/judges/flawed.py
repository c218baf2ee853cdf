"""Judges with a known flaw, to find out what it does to those who rely on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rewardlab.core.draws import uniform_for
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.judges.base import Comparison, Finder, Judge, JudgeSettings
from rewardlab.judges.scores import logistic


def content(rollout: Rollout) -> tuple[str, ...]:
    """The texts that a draw about an answer depends on: its prompt's and its own."""
    return (*(m.content for m in rollout.prompt.messages), rollout.text)


class NoisyJudge:
    """Turns a verdict round (first -> 1 - first) on a share `rate` of all pairs.

    Which pairs is drawn from the seed and the two texts, whatever their order, so a pair asked again, in a
    batch or alone, gets the same answer, and asking in both orders does not average the noise away.
    """

    def __init__(self, judge: Judge, *, rate: float, seed: int, name: str = "") -> None:
        if not 0 <= rate <= 1:
            raise UserError(f"the judge's noise rate {rate} is outside [0, 1].", "0.1 flips one in ten.")
        self.name, self.judge = name or f"noisy({judge.name})", judge
        self.rate, self.seed = rate, seed

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair."""
        return [self._noisy(c, *p) for c, p in zip(self.judge.compare(pairs), pairs, strict=True)]

    def _noisy(self, verdict: Comparison, a: Rollout, b: Rollout) -> Comparison:
        one, other = sorted([content(a), content(b)])
        if verdict.first is None or uniform_for(self.seed, *one, "|", *other) >= self.rate:
            return verdict
        return Comparison(1 - verdict.first, reason=f"{verdict.reason} (turned round by noise)".strip())


class PositionBiasedJudge:
    """logit first <- logit first + shift: a positive shift favours whichever answer is shown first.

    A certain verdict (0 or 1) stays what it is.
    """

    def __init__(self, judge: Judge, *, shift: float, name: str = "") -> None:
        self.name, self.judge, self.shift = name or f"position_biased({judge.name})", judge, shift

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair."""
        return [self._shifted(c) for c in self.judge.compare(pairs)]

    def _shifted(self, verdict: Comparison) -> Comparison:
        if verdict.first is None or verdict.first in (0.0, 1.0):
            return verdict
        logit = math.log(verdict.first) - math.log1p(-verdict.first)
        return Comparison(logistic(logit + self.shift), reason=verdict.reason)


class NoisySettings(JudgeSettings):
    """Another judge that is turned round on a share of all pairs: a known flaw, for experiments."""

    kind: Literal["noisy"] = "noisy"
    judge: str
    """The judge without noise."""
    rate: float = 0.1
    """Share of pairs, drawn by their texts, on which the verdict is turned round."""
    seed: int = 0
    """Of that draw."""

    def judges(self) -> list[str]:
        """The judge without noise."""
        return [self.judge]

    def build(self, name: str, finder: Finder) -> NoisyJudge:
        """The judge."""
        return NoisyJudge(finder.judge(self.judge), rate=self.rate, seed=self.seed, name=name)


class PositionBiasedSettings(JudgeSettings):
    """Another judge that favours a position: a known flaw, for experiments."""

    kind: Literal["position_biased"] = "position_biased"
    judge: str
    """The judge without the bias."""
    shift: float = 1.0
    """Logits added to the answer shown first; below 0 the second is favoured."""

    def judges(self) -> list[str]:
        """The judge without the bias."""
        return [self.judge]

    def build(self, name: str, finder: Finder) -> PositionBiasedJudge:
        """The judge."""
        return PositionBiasedJudge(finder.judge(self.judge), shift=self.shift, name=name)
