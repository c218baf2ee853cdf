"""Group-relative policy optimisation against a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import RewardedStage
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class GRPOStage(RewardedStage, GRPOSettings):
    """Sample groups of answers and push each towards how far it beats its group."""

    kind: Literal["grpo"] = "grpo"

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        prompts, ids = rows.prompts(context, self.data, self.name, engine.model.tokenizer, self.max_tokens)
        algorithm = GRPO(
            engine,
            prompts,
            ids,
            context.reward(self.reward, engine),
            self,
            seed=self.seed(context),
            record=context.run.stage(self.name),
            observers=tuple(context.reward(name, engine) for name in self.observe),
            probe=rows.probe(context, self.probe, engine, self.name),
        )
        return self.fit_online(context, algorithm)
