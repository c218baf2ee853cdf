"""Weighted sums, with weights that may change over training and parts that may be normalised first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from rewardlab.core.settings import Settings
from rewardlab.core.types import Rollout, Score
from rewardlab.objectives.schedule import Ramp, value
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.composable import Composable, reward
from rewardlab.rewards.compose.combining import OnAbstain, by_name, score_parts, settle


class Statistics(Settings):
    """Mean and deviation of a reward's values, from a sample that was looked at once."""

    mean: float
    sd: float = Field(gt=0)


def calibrate(source: Reward, rollouts: Sequence[Rollout]) -> Statistics:
    """Mean and sample deviation of a reward over rollouts (at least two values that differ), to be kept.

    Errors and abstentions are left out; a reward without spread has no unit to normalise by: ValueError.
    """
    values = [s.value for s in source.score(rollouts) if s.value is not None]
    if len(values) < 2 or not statistics.stdev(values):
        raise ValueError(f"{source.name}: {len(values)} values without spread cannot be a scale")
    return Statistics(mean=statistics.fmean(values), sd=statistics.stdev(values))


class SumSettings(RewardSettings):
    """value = constant + sum over parts of weight(version) * normalised value."""

    kind: Literal["sum"] = "sum"
    weights: dict[str, float | Ramp] = Field(min_length=1)
    """Reward name -> weight: a number, or a schedule over the policy version (the optimiser step)
    that the answer was sampled with. A weight of 0 only logs the part."""
    constant: float = 0.0
    normalise: Literal["none", "batch", "group", "fixed"] = "none"
    """(x - mean) / sd of each part before weighting: over the rollouts scored together, over each prompt's
    group, or by `statistics`. Batch and group make a score depend on its neighbours; a part without
    spread there gives 0."""
    statistics: dict[str, Statistics] = {}
    """Part -> mean and sd for `normalise: fixed`, as `calibrate` measures them."""
    on_abstain: OnAbstain = "abstain"
    """`drop` leaves a part that abstains out and scales the other weights up to the same absolute sum."""

    @model_validator(mode="after")
    def _has_statistics(self) -> SumSettings:
        missing = sorted(set(self.weights) - set(self.statistics)) if self.normalise == "fixed" else []
        if missing:
            raise ValueError(f"normalise: fixed needs `statistics` of {', '.join(missing)}")
        return self

    def references(self) -> list[str]:
        """The parts."""
        return list(self.weights)

    def build(self, name: str, resolver: Resolver) -> Sum:
        """The sum of the rewards of these names."""
        return Sum(name, {part: resolver.reward(part) for part in self.weights}, self)


class Sum(Composable):
    """Weighted sum of named rewards; see `SumSettings` and, for failures, `combining`."""

    settings: SumSettings

    def __init__(self, name: str, parts: Mapping[str, Reward], settings: SumSettings) -> None:
        self.name, self.parts, self.settings = name, dict(parts), settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        scores = score_parts(self.parts, rollouts)
        scales = self._scales(rollouts, scores)
        return [self._one(r, s, scale) for r, s, scale in zip(rollouts, scores, scales, strict=True)]

    def _one(
        self, rollout: Rollout, scores: dict[str, Score], scale: Mapping[str, tuple[float, float]]
    ) -> Score:
        version = rollout.sequence.version
        weights = {name: value(w, version) for name, w in self.settings.weights.items()}
        used = {name: s for name, s in scores.items() if weights[name]}
        full = math.fsum(abs(weights[name]) for name in used)

        def total(values: dict[str, float]) -> float:
            there = math.fsum(abs(weights[name]) for name in values)
            terms = (weights[n] * (x - scale[n][0]) / scale[n][1] for n, x in values.items())
            return self.settings.constant + math.fsum(terms) * (full / there if there else 1.0)

        unused = {name: s for name, s in scores.items() if name not in used}
        return settle(used, total, unused=unused, on_abstain=self.settings.on_abstain)

    def _scales(
        self, rollouts: Sequence[Rollout], scores: Sequence[Mapping[str, Score]]
    ) -> list[dict[str, tuple[float, float]]]:
        """Per rollout and part, the (mean, sd) to normalise by."""
        how = self.settings.normalise
        if how in ("none", "fixed"):
            fixed = {n: (s.mean, s.sd) for n, s in self.settings.statistics.items()} if how == "fixed" else {}
            return [{name: fixed.get(name, (0.0, 1.0)) for name in self.parts}] * len(rollouts)
        keys = [r.group if how == "group" else 0 for r in rollouts]
        found = {}
        for key in set(keys):
            rows = [s for s, k in zip(scores, keys, strict=True) if k == key]
            found[key] = {name: _spread([s[name].value for s in rows]) for name in self.parts}
        return [found[key] for key in keys]


def _spread(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and sample deviation of what has a value; a deviation of 1 where there is none."""
    there = [v for v in values if v is not None]
    if len(there) < 2:
        return (there[0] if there else 0.0), 1.0
    return statistics.fmean(there), statistics.stdev(there) or 1.0


def _terms(source: Reward) -> tuple[dict[str, Reward], dict[str, float | Ramp], float]:
    """A reward as parts, weights and a constant; a sum made by operators is opened up, others stay whole."""
    if isinstance(source, Sum) and source.name == "sum" and _is_plain(source.settings):
        return source.parts, source.settings.weights, source.settings.constant
    return {source.name: source}, {source.name: 1.0}, 0.0


def _is_plain(settings: SumSettings) -> bool:
    steady = all(isinstance(w, float) for w in settings.weights.values())
    return steady and settings.normalise == "none" and settings.on_abstain == "abstain"


def scaled(source: Reward, factor: float) -> Sum:
    """factor * source."""
    parts, weights, constant = _terms(source)
    scaled_weights = {n: w * factor for n, w in weights.items() if isinstance(w, float)}
    return Sum("sum", parts, SumSettings(weights={**scaled_weights}, constant=constant * factor))


def added(left: Reward, right: Reward | float) -> Sum:
    """left + right; a reward that occurs in both has the sum of its weights."""
    parts, weights, constant = _terms(left)
    if isinstance(right, int | float):
        return Sum("sum", parts, SumSettings(weights=weights, constant=constant + right))
    further, more, offset = _terms(right)
    every = by_name([*map(_renamed, parts.items()), *map(_renamed, further.items())])
    together = {n: _number(weights.get(n, 0.0)) + _number(more.get(n, 0.0)) for n in every}
    return Sum("sum", every, SumSettings(weights={**together}, constant=constant + offset))


def _renamed(item: tuple[str, Reward]) -> Reward:
    name, source = item
    return source if source.name == name else reward(source, name)


def _number(weight: float | Ramp) -> float:
    assert isinstance(weight, float)  # `_terms` opens only sums with steady weights
    return weight
