"""Group-relative policy optimisation against a reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class GRPOStage(TrainingStage, GRPOSettings):
    """Sample groups of answers and push each towards how far it beats its group."""

    kind: Literal["grpo"] = "grpo"
    reward: str = "reward"
    """Stage name of a reward model, a model folder, or a built-in reward."""
    observe: list[str] = []
    """Rewards scored on the same answers for the record; they never reach the learner."""
    probe: ProbeSettings | None = None

    def references(self) -> list[tuple[str, str]]:
        """The reward, and those that are only observed."""
        observed = [("observe", name) for name in self.observe]
        return [("reward", self.reward), *observed, *super().references()]

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        record = context.run.stage(self.name)
        prompts, ids = rows.prompts(context, self.data, self.name, engine.model.tokenizer, self.max_tokens)
        algorithm = GRPO(
            engine,
            prompts,
            ids,
            context.reward(self.reward, engine),
            self,
            seed=self.seed(context),
            record=record,
            observers=tuple(context.reward(name, engine) for name in self.observe),
            probe=rows.probe(context, self.probe, engine, self.name),
        )

        def peek(step: int, _: Mapping[str, float]) -> None:
            if context.peek and step == 1:
                context.peek_rollouts(record.read_rollouts(step), f"{self.name}: rollout")

        return self.fit(context, algorithm, peek)
