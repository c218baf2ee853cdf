"""Reinforcement learning beside imitation, in one loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import RewardedStage
from rewardlab.training.algorithms.hybrid import Hybrid
from rewardlab.training.algorithms.hybrid_settings import HybridSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class HybridStage(RewardedStage, HybridSettings):
    """Learn from a reward and from demonstrations, or a teacher, at once.

    The data are prompts with an answer each (prompt/completion or messages); kdrl reads the prompts only.
    """

    kind: Literal["hybrid"] = "hybrid"
    teacher: str | None = None
    """kdrl: stage name or model folder; its tokenizer and chat template must be the policy's."""

    @model_validator(mode="after")
    def _has_teacher(self) -> HybridStage:
        if (self.method == "kdrl") != (self.teacher is not None):
            raise ValueError("`teacher` is set exactly when `method: kdrl` is")
        return self

    def references(self) -> list[tuple[str, str]]:
        """The teacher, and those of every rewarded stage."""
        taught = [("teacher", self.teacher)] if self.teacher else []
        return [*taught, *super().references()]

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        probe = rows.probe(context, self.probe, engine, self.name)
        if self.teacher:
            experience = self.experience(context, engine, self, self.prompts_per_step)
            teacher = context.policy(self.teacher)
            return self.fit_online(context, Hybrid(engine, experience, self, teacher=teacher, probe=probe))
        asked, ids, shown = rows.demonstrations(context, self, engine.model.tokenizer)
        experience = self.experience(context, engine, self, self.prompts_per_step, asked=(asked, ids))
        return self.fit_online(context, Hybrid(engine, experience, self, shown, probe=probe))
