"""A reward on a calibrated scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings


class Calibrated:
    """value / temperature, so that sigmoid of a difference is a probability and the order stays as it was.

    Per-token values and the uncertainty are divided too; the value before is the part `raw`. Abstentions and
    errors pass unchanged.
    """

    def __init__(self, name: str, reward: Reward, temperature: float) -> None:
        if not 0 < temperature < float("inf"):
            raise UserError(f"{name}: a temperature of {temperature} is not positive and finite.", "Fit one.")
        self.name, self.reward, self.temperature = name, reward, temperature

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [self._scaled(s) for s in self.reward.score(rollouts)]

    def _scaled(self, score: Score) -> Score:
        value = score.value
        if value is None:
            return score
        tokens = score.tokens
        if tokens is not None:
            tokens = tuple(None if t is None else t / self.temperature for t in tokens)
        return replace(
            score,
            value=value / self.temperature,
            parts={**score.parts, "raw": value},
            tokens=tokens,
            uncertainty=None if score.uncertainty is None else score.uncertainty / self.temperature,
        )


class CalibratedSettings(RewardSettings):
    """A reward divided by a temperature that was fitted on held-out pairs."""

    kind: Literal["calibrated"] = "calibrated"
    reward: str
    """Name of the reward to scale."""
    temperature: float = Field(gt=0, allow_inf_nan=False)
    """What `fit_temperature` found on pairs that the reward was not trained on."""

    def references(self) -> list[str]:
        """The reward that is scaled."""
        return [self.reward]

    def build(self, name: str, resolver: Resolver) -> Calibrated:
        """The scaled reward."""
        return Calibrated(name, resolver.reward(self.reward), self.temperature)
