"""Distillation from a teacher on given answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.distill import Distill, DistillSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class DistillStage(TrainingStage, DistillSettings):
    """Match the teacher's distribution at every trained token of the data."""

    kind: Literal["distill"] = "distill"
    teacher: str
    """Stage name or model folder; its tokenizer and chat template must be the student's."""
    train_on: Literal["assistant", "all"] = "assistant"
    """`all` trains on every message."""
    probe: ProbeSettings | None = None

    def references(self) -> list[tuple[str, str]]:
        """The teacher, and those of every training stage."""
        return [("teacher", self.teacher), *super().references()]

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        tokenizer = engine.model.tokenizer
        train, held_out = rows.examples(context, self, tokenizer, train_all=self.train_on == "all")
        context.peek_at(train, tokenizer, f"{self.name}: row")
        algorithm = Distill(
            engine,
            context.policy(self.teacher),
            train,
            held_out,
            self,
            seed=self.seed(context),
            probe=rows.probe(context, self.probe, engine, self.name),
        )
        return self.fit(context, algorithm)
