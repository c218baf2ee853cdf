"""What every stage has that learns from its own samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rewardlab.core.types import Prompt
from rewardlab.models.engine import Engine
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.rewards.base import Reward
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.experience import Experience, ExperienceSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class SamplingStage(TrainingStage):
    """The data are prompts; the policy answers them."""

    observe: list[str] = []
    """Rewards scored on the same answers for the record; they never reach the learner."""
    probe: ProbeSettings | None = None

    def references(self) -> list[tuple[str, str]]:
        """The rewards that are only observed, and those of every training stage."""
        return [*(("observe", name) for name in self.observe), *super().references()]

    def scored_by(self, context: Context, engine: Engine) -> Reward | None:
        """The reward that the learner sees."""
        return None

    def experience(
        self,
        context: Context,
        engine: Engine,
        settings: ExperienceSettings,
        prompts_at_once: int,
        asked: tuple[list[Prompt], list[list[int]]] | None = None,
    ) -> Experience:
        """Prompts (the data's, or those `asked`), reward, observers and record of this stage."""
        if asked is None:
            asked = rows.prompts(context, self.data, self.name, engine.model.tokenizer, self.max_tokens)
        prompts, ids = asked
        return Experience(
            engine,
            prompts,
            ids,
            self.scored_by(context, engine),
            settings,
            prompts_at_once=prompts_at_once,
            seed=self.seed(context),
            record=context.run.stage(self.name),
            observers=tuple(context.reward(name, engine) for name in self.observe),
        )

    def fit_online(self, context: Context, algorithm: Algorithm) -> Outcome:
        """Train, showing the first step's answers where peeking is on."""
        record = context.run.stage(self.name)

        def peek(step: int, _: Mapping[str, float]) -> None:
            if context.peek and step == 1:
                context.peek_rollouts(record.read_rollouts(step), f"{self.name}: rollout")

        return self.fit(context, algorithm, peek)


class RewardedStage(SamplingStage):
    """A stage whose answers are scored by a reward."""

    reward: str = "reward"
    """Stage name of a reward model, a model folder, or a built-in reward."""

    def references(self) -> list[tuple[str, str]]:
        """The reward first."""
        return [("reward", self.reward), *super().references()]

    def scored_by(self, context: Context, engine: Engine) -> Reward | None:
        """The reward by name."""
        return context.reward(self.reward, engine)
