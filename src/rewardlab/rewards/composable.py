"""Operators on rewards (`0.7 * a + 0.3 * b`, `a * b`, `maximum(a, b)`), and any object as a reward."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Reward, RewardSettings

if TYPE_CHECKING:
    from rewardlab.rewards.compose.extremes import Extreme
    from rewardlab.rewards.compose.products import Product
    from rewardlab.rewards.compose.sums import Sum

C = TypeVar("C", bound="Composable")


class Composable:
    """A reward with operators; every reward of ours is one.

    `settings` is how a recipe writes it (None where it has no such form) and `parts` are the rewards that
    it is made of, under the names that its scores log them with.
    """

    name: str
    settings: RewardSettings | None = None
    parts: dict[str, Reward] = {}

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout, in order."""
        raise NotImplementedError

    def named(self: C, name: str) -> C:
        """The same reward under another name."""
        twin = copy.copy(self)
        twin.name = name
        return twin

    def __mul__(self, other: Reward | float) -> Sum | Product:
        if isinstance(other, int | float):
            from rewardlab.rewards.compose.sums import scaled

            return scaled(self, float(other))
        from rewardlab.rewards.compose.products import product

        return product(self, other)

    __rmul__ = __mul__

    def __add__(self, other: Reward | float) -> Sum:
        from rewardlab.rewards.compose.sums import added

        return added(self, other)

    __radd__ = __add__

    def __sub__(self, other: Reward | float) -> Sum:
        return self + (-other if isinstance(other, int | float) else reward(other) * -1.0)

    def __rsub__(self, other: Reward | float) -> Sum:
        return -self + other

    def __neg__(self) -> Sum:
        from rewardlab.rewards.compose.sums import scaled

        return scaled(self, -1.0)


class Wrapped(Composable):
    """An object with `score(rollouts)` as a reward with operators; what it says is passed through."""

    def __init__(self, reward: Reward, name: str = "") -> None:
        self.reward = reward
        self.name = name or getattr(reward, "name", type(reward).__name__)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The object's own scores."""
        return self.reward.score(rollouts)


def reward(source: Reward, name: str = "") -> Composable:
    """Any object with `score(rollouts) -> list[Score]`, with operators; `name` renames it."""
    if isinstance(source, Composable):
        return source.named(name) if name else source
    return Wrapped(source, name)


def maximum(*rewards: Reward) -> Extreme:
    """The largest of the rewards' values."""
    from rewardlab.rewards.compose.extremes import extreme

    return extreme("maximum", rewards)


def minimum(*rewards: Reward) -> Extreme:
    """The smallest of the rewards' values."""
    from rewardlab.rewards.compose.extremes import extreme

    return extreme("minimum", rewards)
