"""Knobs of PPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rewardlab.objectives import kl
from rewardlab.training.control import ControlSettings


class PPOSettings(ControlSettings):
    """Knobs of the method."""

    prompts_per_step: int = 32
    samples_per_prompt: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""
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
    kl_coefficient: float = Field(default=0.05, ge=0)
    """Price of a nat; where the controller starts, if there is one."""
    kl_estimator: kl.Estimator = "k1"
    """k1 is for the reward only; in the loss take k2 or k3."""
    kl_placement: kl.Placement = "reward"
    train_truncated: bool = False
    """Train on answers cut by the token limit too."""
    bootstrap_truncated: bool = False
    """A cut answer did not end: in place of its score, which would judge an unfinished text, its last action
    earns what the critic expects from there on. Off, being cut is an end and the score is paid, which
    teaches to stop in time. Needs train_truncated."""
    normalise: Literal["none", "reward", "return"] = "none"
    """Bring to mean 0 and deviation 1, by all of the run so far: `reward`, the scores, so that the KL's
    price is in their deviations; `return`, what the critic learns and value_clip bounds, with GAE in the
    reward's own units."""

    @model_validator(mode="after")
    def _does_something(self) -> PPOSettings:
        if self.kl_coefficient or self.kl_control != "fixed":
            kl.check(self.kl_estimator, self.kl_placement)
        if self.bootstrap_truncated and not self.train_truncated:
            raise ValueError("bootstrap_truncated needs train_truncated: cut answers are not trained on")
        return self
