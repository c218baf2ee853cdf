"""Products of rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.composable import Composable, reward
from rewardlab.rewards.compose.combining import by_name, score_parts, settle


class ProductSettings(RewardSettings):
    """value = product of the parts' values: all must be good where each is in [0, 1]."""

    kind: Literal["product"] = "product"
    of: list[str] = Field(min_length=1)
    """Names of the rewards."""

    def references(self) -> list[str]:
        """The factors."""
        return self.of

    def build(self, name: str, resolver: Resolver) -> Product:
        """The product of the rewards of these names."""
        return Product(name, {part: resolver.reward(part) for part in self.of}, self)


class Product(Composable):
    """Product of named rewards; a factor of 0 does not hide another factor's error."""

    settings: ProductSettings

    def __init__(self, name: str, parts: Mapping[str, Reward], settings: ProductSettings) -> None:
        self.name, self.parts, self.settings = name, dict(parts), settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        factors = self.settings.of
        return [
            settle(scores, lambda v: math.prod(v[name] for name in factors))
            for scores in score_parts(self.parts, rollouts)
        ]


def product(*rewards: Reward) -> Product:
    """The product of rewards; products of products are one."""
    flat = [factor for r in rewards for factor in _factors(r)]
    parts = by_name(flat)
    return Product("product", parts, ProductSettings(of=[f.name for f in flat]))


def _factors(source: Reward) -> list[Reward]:
    if isinstance(source, Product) and source.name == "product":
        return [reward(inner, name) for name, inner in source.parts.items()]
    return [source]
