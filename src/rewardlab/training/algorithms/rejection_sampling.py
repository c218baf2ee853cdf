"""Rejection sampling fine-tuning: imitate the best of the policy's own answers.

loss = - mean over the kept answers' tokens of log p(token | prefix)

Each step samples n answers per prompt, scores them and keeps some: `best`, the best of each prompt's (RAFT,
Dong et al. 2023, arXiv 2304.06767, its local ranking); `top_fraction`, the best of the step's whatever the
prompt (RAFT's global ranking); `threshold`, all that score at least so much (ReST, Gulcehre et al. 2023,
arXiv 2308.08998; with a 0/1 reward and threshold 1 it is STaR-like filtering). No reference and no KL:
the policy moves as far as the kept answers pull it.

Only usable answers compete: those with a score that, unless `train_truncated`, were not cut. Among equal
scores the first drawn wins; they are exchangeable. A step that keeps nothing takes no update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, Literal

from pydantic import Field, model_validator

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Rollout
from rewardlab.models.engine import Engine
from rewardlab.objectives.policy_gradient import Aggregation
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.supervised import nll
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.experience import Experience, ExperienceSettings, summary, usable
from rewardlab.training.pairs import value_of
from rewardlab.training.probe import Probe


class RejectionSettings(ExperienceSettings):
    """Knobs of the method."""

    prompts_per_step: int = Field(default=16, ge=1)
    keep: Literal["best", "top_fraction", "threshold"] = "best"
    top_fraction: float = Field(default=0.25, gt=0, le=1)
    """keep top_fraction: this share of the step's usable answers, rounded up."""
    threshold: float | None = None
    """keep threshold: the lowest score that is kept."""
    aggregation: Aggregation = "token"
    """Who is averaged with whom: `token`, or `sequence` for answers of equal weight whatever their length."""

    @model_validator(mode="after")
    def _has_threshold(self) -> RejectionSettings:
        if (self.keep == "threshold") != (self.threshold is not None):
            raise ValueError("`threshold` is set exactly when `keep: threshold` is")
        return self


class RejectionSampling(Algorithm):
    """One batch of kept answers a step."""

    def __init__(
        self,
        engine: Engine,
        experience: Experience,
        settings: RejectionSettings,
        *,
        probe: Probe | None = None,
    ) -> None:
        self.engine, self.experience, self.settings, self.probe = engine, experience, settings, probe

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        rollouts = self.experience.collect(step)
        kept = select(rollouts, self.settings)
        taken = set(kept)
        self.experience.write(step, rollouts, {"kept": [float(i in taken) for i in range(len(rollouts))]})
        numbers = {
            **summary(rollouts),
            "kept": float(len(kept)),
            "kept_reward": fmean(value_of(rollouts[i]) for i in kept) if kept else 0.0,
            **self.experience.observe(rollouts),
        }
        return [Batch.pack(rollouts[i].sequence for i in kept)] if kept else [], numbers

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        s = self.settings
        return nll(out, batch, aggregation=s.aggregation, constant_length=s.max_new_tokens)

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return self.experience.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.experience.load_state(state)


def select(rollouts: list[Rollout], settings: RejectionSettings) -> list[int]:
    """The answers to imitate, in the order they were drawn."""
    ok = usable(rollouts, settings).tolist()
    value = {i: value_of(r) for i, r in enumerate(rollouts) if ok[i]}
    if settings.threshold is not None:
        return [i for i, v in value.items() if v >= settings.threshold]
    best_first = sorted(value, key=lambda i: (-value[i], i))
    if settings.keep == "top_fraction":
        return sorted(best_first[: math.ceil(settings.top_fraction * len(value))])
    first: dict[int, int] = {}
    for i in best_first:
        first.setdefault(rollouts[i].group, i)
    return sorted(first.values())
