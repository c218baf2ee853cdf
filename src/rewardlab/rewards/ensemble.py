"""Several rewards as one that knows how far they disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings

Aggregate = Literal["mean", "min", "mean_minus_std", "mean_minus_variance", "precision"]


def combine(values: Sequence[float], how: Aggregate, *, penalty: float = 1.0) -> float:
    """One value from K members'; std and variance are the unbiased ones, 0 for one member.

    mean; min (the most sceptical member decides); mean_minus_std: mean - penalty * std;
    mean_minus_variance: mean - penalty * variance. Coste et al. 2023 (arXiv 2310.02743) compare
    mean, minimum and variance. None of them helps against an error that all members share.
    """
    spread = stdev(values) if len(values) > 1 else 0.0
    if how == "min":
        return min(values)
    if how == "mean_minus_std":
        return fmean(values) - penalty * spread
    if how == "mean_minus_variance":
        return fmean(values) - penalty * spread**2
    if how == "precision":
        raise ValueError("precision weights need the members' uncertainties; see `precision_mean`")
    return fmean(values)


def precision_mean(values: Sequence[float], uncertainties: Sequence[float]) -> float:
    """sum_k v_k / u_k^2 / sum_k 1 / u_k^2; members that are certain (u = 0) decide alone, equally."""
    certain = [v for v, u in zip(values, uncertainties, strict=True) if u == 0]
    if certain:
        return fmean(certain)
    least = min(uncertainties)  # relative, so that tiny uncertainties do not overflow
    weights = [(least / u) ** 2 for u in uncertainties]
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def joined(name: str, parts: dict[str, float], how: Aggregate, penalty: float) -> Score:
    """The ensemble's score from its members' values by name; `uncertainty` is their std."""
    values = list(parts.values())
    spread = stdev(values) if len(values) > 1 else None
    value = combine(values, how, penalty=penalty)
    return Score(value, parts={name: value, **parts}, uncertainty=spread)


class Ensemble:
    """Members' values combined; `uncertainty` is their standard deviation, `parts` hold every member.

    A member that fails or abstains makes the score an error or an abstention: a mean over whoever is left
    would mix scales, and a minimum would rise. The members should speak in one unit (reward models
    trained alike); their names must differ. `precision` weighs members by their own `Score.uncertainty`; a
    member without one is an error.
    """

    def __init__(
        self, name: str, members: Sequence[Reward], *, aggregate: Aggregate = "mean", penalty: float = 1.0
    ) -> None:
        names = [m.name for m in members]
        if not members or len(set(names)) < len(names) or name in names:
            raise UserError(
                f"{name}: an ensemble of {names}.", "Give at least one member, each with a name of its own."
            )
        self.name, self.members, self.penalty = name, list(members), penalty
        self.aggregate: Aggregate = aggregate

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        columns = [member.score(rollouts) for member in self.members]
        return [self._score(row) for row in zip(*columns, strict=True)]

    def _score(self, row: tuple[Score, ...]) -> Score:
        parts: dict[str, float] = {}
        for member, score in zip(self.members, row, strict=True):
            if score.value is None:
                failed = any(s.status == "error" for s in row)
                bad = next(s for s in row if s.status == "error") if failed else score
                return (Score.error if failed else Score.abstain)(f"{self.name}: {bad.reason}")
            parts[member.name] = score.value
        if self.aggregate != "precision":
            return joined(self.name, parts, self.aggregate, self.penalty)
        own = [s.uncertainty for s in row if s.uncertainty is not None]
        if len(own) < len(row):
            return Score.error(f"{self.name}: a member gives no uncertainty to weigh it by")
        value = precision_mean(list(parts.values()), own)
        spread = stdev(parts.values()) if len(parts) > 1 else None
        return Score(value, parts={self.name: value, **parts}, uncertainty=spread)


class EnsembleSettings(RewardSettings):
    """Several rewards as one."""

    kind: Literal["ensemble"] = "ensemble"
    members: list[str] = Field(min_length=1)
    """Rewards by name, in one unit."""
    aggregate: Aggregate = "mean"
    """`mean`, `min`, `mean_minus_std`, `mean_minus_variance`, or `precision` (by their own uncertainties)."""
    penalty: float = Field(default=1.0, ge=0)
    """What a unit of std or variance costs."""

    def references(self) -> list[str]:
        """The members."""
        return self.members

    def build(self, name: str, resolver: Resolver) -> Ensemble:
        """The ensemble."""
        members = [resolver.reward(member) for member in self.members]
        return Ensemble(name, members, aggregate=self.aggregate, penalty=self.penalty)
