"""The smallest or the largest of several rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.compose.combining import OnAbstain, by_name, score_parts, settle


class ExtremeSettings(RewardSettings):
    """value = min or max over the parts; the minimum of several judges is hard to please by a trick."""

    kind: Literal["minimum", "maximum"]
    of: list[str] = Field(min_length=1)
    """Names of the rewards."""
    on_abstain: OnAbstain = "abstain"
    """`drop` takes the extreme of the parts that have an opinion."""

    def references(self) -> list[str]:
        """The parts."""
        return self.of

    def build(self, name: str, resolver: Resolver) -> Extreme:
        """The extreme of the rewards of these names."""
        return Extreme(name, {part: resolver.reward(part) for part in self.of}, self)


class Extreme(Composable):
    """Minimum or maximum of named rewards."""

    settings: ExtremeSettings

    def __init__(self, name: str, parts: Mapping[str, Reward], settings: ExtremeSettings) -> None:
        self.name, self.parts, self.settings = name, dict(parts), settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        choose = min if self.settings.kind == "minimum" else max
        return [
            settle(scores, lambda v: choose(v.values()), on_abstain=self.settings.on_abstain)
            for scores in score_parts(self.parts, rollouts)
        ]


def extreme(kind: Literal["minimum", "maximum"], rewards: Sequence[Reward]) -> Extreme:
    """The extreme of rewards, named after its kind."""
    parts = by_name(rewards)
    return Extreme(kind, parts, ExtremeSettings(kind=kind, of=list(parts)))
