"""Direct preference optimisation and the other preference losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rewardlab.objectives.preference import Losses, PreferenceSettings
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.dpo import DPO

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class PreferenceStage(TrainingStage, PreferenceSettings):
    """What the kinds share; each only changes defaults, and a recipe may change them back."""

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
            cache=context.reference_cache(engine) if self.needs_reference else None,
        )
        return self.fit(context, algorithm)


class DPOStage(PreferenceStage):
    """Make chosen answers more likely than rejected ones, with the loss that `loss` names."""

    kind: Literal["dpo"] = "dpo"


class ORPOStage(PreferenceStage):
    """Imitate chosen answers and raise their odds over rejected ones; no reference (arXiv 2403.07691)."""

    kind: Literal["orpo"] = "orpo"
    loss: Losses = {"orpo": 1.0}
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds ratio."""


class SimPOStage(PreferenceStage):
    """Mean log-prob per token as the reward, with a margin to win by; no reference (arXiv 2405.14734)."""

    kind: Literal["simpo"] = "simpo"
    loss: Losses = {"simpo": 1.0}
    beta: float = Field(default=2.0, gt=0)
    simpo_gamma: float = 1.0
