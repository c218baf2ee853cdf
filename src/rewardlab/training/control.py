"""Coefficients that a run adjusts as it goes: of the KL and of the entropy bonus; part of the checkpoint."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rewardlab.core.settings import Settings
from rewardlab.objectives import entropy, kl


class ControlSettings(Settings):
    """The coefficients and who moves them."""

    kl_coefficient: float = Field(default=0.02, ge=0)
    """With a controller: where it starts."""
    kl_control: Literal["fixed", "adaptive", "budgeted"] = "fixed"
    """adaptive holds the KL near kl_target (arXiv 1909.08593); budgeted charges only for KL above it."""
    kl_target: float | None = Field(default=None, gt=0)
    """Nats per answer from the starting policy."""
    kl_horizon: float = Field(default=10000.0, gt=0)
    """adaptive: answers over which the coefficient may change by a fifth."""
    kl_rate: float = Field(default=0.01, gt=0)
    """budgeted: change of the coefficient per nat above the target and step."""
    entropy_coefficient: float = 0.0
    """With entropy_target: where it starts."""
    entropy_target: float | None = Field(default=None, gt=0)
    """Nats per token; below it the bonus grows, above it the bonus shrinks (arXiv 2505.22312)."""
    entropy_rate: float = Field(default=0.005, gt=0)
    """entropy_target: change of the coefficient per step."""

    @model_validator(mode="after")
    def _controlled(self) -> ControlSettings:
        if (self.kl_control == "fixed") != (self.kl_target is None):
            raise ValueError("kl_target is set exactly when kl_control is adaptive or budgeted")
        if self.kl_control == "adaptive" and not self.kl_coefficient:
            raise ValueError("kl_control: adaptive multiplies the coefficient, so it cannot start at 0")
        return self


class Control:
    """The coefficients in force."""

    def __init__(self, settings: ControlSettings) -> None:
        self.settings = settings
        self.kl, self.entropy = settings.kl_coefficient, settings.entropy_coefficient

    def look(self, *, kl_per_answer: float, entropy_per_token: float, answers: int) -> dict[str, float]:
        """Move both by what a step's fresh answers show; numbers to log."""
        s = self.settings
        if s.kl_control == "adaptive" and s.kl_target is not None:
            self.kl = kl.adaptive(self.kl, kl_per_answer, s.kl_target, samples=answers, horizon=s.kl_horizon)
        elif s.kl_control == "budgeted" and s.kl_target is not None:
            self.kl = kl.budgeted(self.kl, kl_per_answer, s.kl_target, rate=s.kl_rate)
        if s.entropy_target is not None:
            self.entropy = entropy.adapt(
                self.entropy, entropy_per_token, s.entropy_target, step=s.entropy_rate
            )
        return {"kl_coefficient": self.kl, "entropy_coefficient": self.entropy}

    def state(self) -> dict[str, Any]:
        """Both coefficients."""
        return {"kl": self.kl, "entropy": self.entropy}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state()` gave."""
        self.kl, self.entropy = state["kl"], state["entropy"]
