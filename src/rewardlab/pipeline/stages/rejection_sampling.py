"""Rejection sampling fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import RewardedStage
from rewardlab.training.algorithms.rejection_sampling import RejectionSampling, RejectionSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class RejectionSamplingStage(RewardedStage, RejectionSettings):
    """Imitate the best of the policy's own answers."""

    kind: Literal["rejection_sampling"] = "rejection_sampling"

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        experience = self.experience(context, engine, self, self.prompts_per_step)
        probe = rows.probe(context, self.probe, engine, self.name)
        return self.fit_online(context, RejectionSampling(engine, experience, self, probe=probe))
