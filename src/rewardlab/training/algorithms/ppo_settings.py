"""Knobs of PPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rewardlab.core.settings import Settings
from rewardlab.objectives import kl


class PPOSettings(Settings):
    """Knobs of the method."""

    prompts_per_step: int = 32
    samples_per_prompt: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    epochs: int = Field(default=4, ge=1)
    """Passes over each round's answers."""
    minibatches: int = Field(default=1, ge=1)
    """Optimiser updates in each pass; every pass shuffles the answers anew."""
    gamma: float = 1.0
    """Discount per action."""
    lam: float = 1.0
    """GAE's trade: 1 trusts the rewards, 0 the critic. Below 1 a critic that has not yet learnt the rewards'
    level makes early tokens look worse than late ones, and answers shrink or grow for that alone."""
    whiten: bool = True
    """Shift and scale the round's advantages to mean 0 and standard deviation 1 over tokens."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    critic: Literal["separate", "shared"] = "separate"
    """`separate`: a second model; `shared`: a head on the policy's own trunk."""
    critic_learning_rate: float | None = None
    """Peak for the critic's parameters; None: the policy's. It has the same schedule."""
    value_clip: float | None = 0.2
    """How far a value may move in a round, in units of the return; None: anywhere."""
    value_coefficient: float = 0.5
    """Weight of the value loss. With a shared trunk it competes with the policy: where returns are far
    from 1 in size, make it as much smaller as their square is larger."""
    kl_coefficient: float = 0.05
    """Price of a nat; where the controller starts, if there is one."""
    kl_estimator: kl.Estimator = "k1"
    """k1 is for the reward only; in the loss take k2 or k3."""
    kl_placement: kl.Placement = "reward"
    kl_target: float | None = Field(default=None, gt=0)
    """Nats per answer that the adaptive controller holds the KL at; None keeps the coefficient."""
    kl_horizon: float = Field(default=10000.0, gt=0)
    """Answers over which the controller acts; fewer make it faster."""
    entropy_coefficient: float = 0.0
    train_truncated: bool = False
    """Train on answers cut by the token limit too."""

    @model_validator(mode="after")
    def _kl_does_something(self) -> PPOSettings:
        if self.kl_coefficient:
            kl.check(self.kl_estimator, self.kl_placement)
        elif self.kl_target is not None:
            raise ValueError("kl_target: the controller scales kl_coefficient, and that is 0; start above 0")
        return self
