"""DPO in rounds on a buffer of the policy's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import RewardedStage
from rewardlab.training.algorithms.iterative_dpo import IterativeDPO, IterativeDPOSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class IterativeDPOStage(RewardedStage, IterativeDPOSettings):
    """Rounds of sampling pairs into a buffer and learning from it; `steps` are the updates of all rounds."""

    kind: Literal["iterative_dpo"] = "iterative_dpo"

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        experience = self.experience(context, engine, self, self.prompts_per_round)
        probe = rows.probe(context, self.probe, engine, self.name)
        return self.fit_online(context, IterativeDPO(engine, experience, self, probe=probe))
