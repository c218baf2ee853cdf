"""DPO on fresh pairs of the policy's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import RewardedStage
from rewardlab.training.algorithms.online_dpo import OnlineDPO, OnlineDPOSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class OnlineDPOStage(RewardedStage, OnlineDPOSettings):
    """Each step, the reward's best and worst of the policy's own answers become pairs to learn from."""

    kind: Literal["online_dpo"] = "online_dpo"

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        experience = self.experience(context, engine, self, self.prompts_per_step)
        probe = rows.probe(context, self.probe, engine, self.name)
        return self.fit_online(context, OnlineDPO(engine, experience, self, probe=probe))
