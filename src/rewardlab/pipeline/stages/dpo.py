"""Direct preference optimisation and the other preference losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.dpo import DPO

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class DPOStage(TrainingStage, PreferenceSettings):
    """Make chosen answers more likely than rejected ones, with the loss that `loss` names."""

    kind: Literal["dpo"] = "dpo"
    pairs_per_step: int = 32
    probe: ProbeSettings | None = None

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        train, held_out = rows.pairs(context, self, engine.model.tokenizer)
        context.peek_at([p.chosen for p in train], engine.model.tokenizer, f"{self.name}: chosen")
        algorithm = DPO(
            engine,
            train,
            held_out,
            pairs_per_step=self.pairs_per_step,
            settings=self,
            seed=self.seed(context),
            probe=rows.probe(context, self.probe, engine, self.name),
            progress=context.progress,
        )
        return self.fit(context, algorithm)
