"""Distillation from a teacher on the student's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import SamplingStage
from rewardlab.training.algorithms.on_policy_distill import OnPolicyDistill, OnPolicyDistillSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class OnPolicyDistillStage(SamplingStage, OnPolicyDistillSettings):
    """The teacher corrects what the student itself writes."""

    kind: Literal["on_policy_distill"] = "on_policy_distill"
    teacher: str
    """Stage name or model folder; its tokenizer and chat template must be the student's."""

    def references(self) -> list[tuple[str, str]]:
        """The teacher, and those of every sampling stage."""
        return [("teacher", self.teacher), *super().references()]

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        experience = self.experience(context, engine, self, self.prompts_per_step)
        probe = rows.probe(context, self.probe, engine, self.name)
        teacher = context.policy(self.teacher)
        return self.fit_online(context, OnPolicyDistill(engine, teacher, experience, self, probe=probe))
