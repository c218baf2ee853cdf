"""Kahneman-Tversky optimisation on single judged answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.kto import KTO, KTOSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class KTOStage(TrainingStage, KTOSettings):
    """Make good answers more likely and bad ones less."""

    kind: Literal["kto"] = "kto"
    rows_are: Literal["pairs", "judged"] = "pairs"
    """`pairs`: the chosen answer is a good one, the rejected a bad one. `judged`: prompt, completion and
    `label`, true or false."""
    probe: ProbeSettings | None = None

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        train, held_out = rows.judged(context, self, engine.model.tokenizer, pairs=self.rows_are == "pairs")
        context.peek_at([r.answer for r in train], engine.model.tokenizer, f"{self.name}: answer")
        algorithm = KTO(
            engine,
            train,
            held_out,
            self,
            seed=self.seed(context),
            probe=rows.probe(context, self.probe, engine, self.name),
            progress=context.progress,
            cache=context.reference_cache(engine),
        )
        return self.fit(context, algorithm)
