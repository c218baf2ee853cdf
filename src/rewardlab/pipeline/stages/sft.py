"""Supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.sft import SFT

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class SFTStage(TrainingStage):
    """Imitate the answers of the data."""

    kind: Literal["sft"] = "sft"
    rows_per_step: int = 32
    train_on: Literal["assistant", "all"] = "assistant"
    """`all` trains on every message, as in pretraining."""
    probe: ProbeSettings | None = None

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        tokenizer = engine.model.tokenizer
        train, held_out = rows.examples(context, self, tokenizer, train_all=self.train_on == "all")
        context.peek_at(train, tokenizer, f"{self.name}: row")
        algorithm = SFT(
            engine,
            train,
            held_out,
            rows_per_step=self.rows_per_step,
            seed=self.seed(context),
            probe=rows.probe(context, self.probe, engine, self.name),
        )
        return self.fit(context, algorithm)
