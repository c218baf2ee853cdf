"""What a hybrid is made of: which method, its weights and its schedules."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.schedule import Gate, Ramp
from rewardlab.training.algorithms.grpo import GRPOSettings

Method = Literal["chord", "hpt", "uft", "prefix", "kdrl"]
WEIGHT: dict[Method, Ramp | float] = {
    "chord": 0.1,
    "hpt": 1.0,
    "uft": 0.001,
    "prefix": 0.1,
    "kdrl": Ramp(peak=5e-3, end=1e-3, decay_steps=100, shape="linear"),
}
HINT: dict[Method, Ramp | float] = {
    "uft": Ramp(peak=0.95, end=0.05, decay_steps=300, after=0.0),
    "prefix": Ramp(peak=0.95, end=0.0, decay_steps=300),
}
READ_BY: dict[str, tuple[Method, ...]] = {
    "weight": ("chord", "uft", "prefix", "kdrl"),
    "probability_power": ("chord", "hpt", "uft", "prefix"),
    "probability_complement": ("chord", "hpt", "uft", "prefix"),
    "gate": ("hpt",),
    "correct_at": ("hpt", "kdrl"),
    "hint": ("uft", "prefix"),
    "hint_chunks": ("uft",),
    "prefix_high": ("prefix",),
    "prefix_share": ("prefix",),
    "teacher_estimator": ("kdrl",),
    "teach": ("kdrl",),
}


class HybridSettings(GRPOSettings):
    """Knobs of the methods, beside those of `grpo`."""

    method: Method = "chord"
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Of the KL to the starting policy."""
    weight: Ramp | float | None = None
    """Of the second loss, by step; None: the method's. chord: mu, within 0 and 1."""
    probability_power: float = Field(default=0.0, ge=0)
    """A demonstration's token counts p^power (1 - p)^complement, p its probability; 0 and 0 is plain NLL."""
    probability_complement: float = Field(default=0.0, ge=0)
    gate: Gate = Gate()
    """hpt: weights of both losses by how many of a prompt's answers were right."""
    correct_at: float = 1.0
    """hpt, kdrl: the lowest score of a right answer."""
    hint: Ramp | float | None = None
    """uft: the chance of each chunk; prefix: the least share of the demonstration that is given."""
    hint_chunks: int = Field(default=5, ge=1)
    """uft: so many chunks make a demonstration."""
    prefix_high: float = Field(default=0.95, ge=0, le=1)
    """prefix: the greatest share of the demonstration that is given."""
    prefix_share: float = Field(default=0.2, ge=0, le=1)
    """prefix: the share of its tokens that are imitated, those where the policy is least sure."""
    teacher_estimator: Literal["k2", "k3", "k3+"] = "k2"
    teach: Literal["all", "failures", "failed_prompts"] = "all"
    """kdrl: whom the teacher corrects; answers that were not right, or those of prompts with no right one."""

    @property
    def second(self) -> Literal["sft", "teacher"]:
        """The name of the second loss."""
        return "teacher" if self.method == "kdrl" else "sft"

    @property
    def second_weight(self) -> Ramp | float:
        """Its weight by step."""
        return WEIGHT[self.method] if self.weight is None else self.weight

    @property
    def hint_schedule(self) -> Ramp | float:
        """How much of a demonstration is given, by step."""
        return HINT[self.method] if self.hint is None else self.hint

    def by_step(self, terms: Terms) -> Terms:
        """Losses as means over the step's rows; statistics stay means over the rows that they read."""
        return {k: replace(t, of=None) if t.coefficient else t for k, t in terms.items()}

    @model_validator(mode="after")
    def _does_something(self) -> HybridSettings:
        for name, methods in READ_BY.items():
            changed = getattr(self, name) != HybridSettings.model_fields[name].default
            if changed and self.method not in methods:
                raise ValueError(f"{name} acts in method {' or '.join(methods)} only, not in {self.method}")
        if self.loss == "gvpo":
            raise ValueError("loss gvpo pairs whole groups of samples and cannot share a batch")
        if self.updates_per_step != 1:
            raise ValueError("a hybrid's step is one update: leave out updates_per_step")
        w = self.second_weight
        ends = (w.peak, w.start, w.end, w.after) if isinstance(w, Ramp) else (w,)
        values = [x for x in ends if x is not None]
        if min(values) < 0 or (self.method == "chord" and max(values) > 1):
            raise ValueError("weight must not be negative and, as chord's mu, not exceed 1")
        return self
