"""Supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rewardlab.objectives.imitation import PER_SEQUENCE, SupervisedSettings
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, StageData, TrainingStage, as_list
from rewardlab.training.algorithms.sft import SFT

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class SFTData(StageData):
    """Rows of a source and what they count."""

    weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Share of the loss that is this source's, relative to the other weights, however many rows it has; null
    for all: every token (or answer) of the data counts the same."""


class SFTStage(TrainingStage, SupervisedSettings):
    """Imitate the answers of the data."""

    kind: Literal["sft"] = "sft"
    data: Annotated[list[SFTData], BeforeValidator(as_list)]  # type: ignore[assignment]
    rows_per_step: int = 32
    train_on: Literal["assistant", "all"] = "assistant"
    """`all` trains on every message, as in pretraining."""
    probe: ProbeSettings | None = None

    @property
    def shares(self) -> dict[int, float] | None:
        """Each source's part of the loss, together 1; None where no source has a weight."""
        weights = [d.weight for d in self.data if d.weight is not None]
        return {i: w / sum(weights) for i, w in enumerate(weights)} if weights else None

    @model_validator(mode="after")
    def _weights(self) -> SFTStage:
        weights = [d.weight for d in self.data]
        if weights.count(None) not in (0, len(weights)):
            raise ValueError("data: give every source a `weight`, or none")
        if None not in weights and not any(weights):
            raise ValueError("data: all sources have weight 0, so that nothing would be trained on")
        if None not in weights and self.loss in PER_SEQUENCE:
            raise ValueError(f"data: {self.loss} knows no weights of sources; leave `weight` out")
        return self

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        tokenizer = engine.model.tokenizer
        whole = self.train_on == "all"
        train, held_out, source = rows.sourced_examples(context, self, tokenizer, train_all=whole)
        context.peek_at(train, tokenizer, f"{self.name}: row")
        algorithm = SFT(
            engine,
            train,
            held_out,
            rows_per_step=self.rows_per_step,
            seed=self.seed(context),
            settings=self,
            source=source,
            shares=self.shares,
            probe=rows.probe(context, self.probe, engine, self.name),
            progress=context.progress,
            cache=context.reference_cache(engine) if self.needs_logp_ref else None,
        )
        return self.fit(context, algorithm)
