"""Distillation on given answers: match the teacher's distribution at every trained token of the data.

loss = mean over trained tokens of D(teacher, student) + nll_weight * mean of -log p(token | prefix)

D is the forward KL (word-level distillation, Kim and Rush 2016, arXiv 1606.07947), the reverse KL or the
generalised Jensen-Shannon divergence, over the whole vocabulary or the teacher's top-k. Answers that the
teacher wrote, or anyone's; the student never samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.supervised import nll
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.distillation import DivergenceSettings, divergence_terms, fill
from rewardlab.training.loop import mean_terms
from rewardlab.training.probe import Probe
from rewardlab.training.teacher import Teacher


class DistillSettings(DivergenceSettings):
    """Knobs of the method."""

    rows_per_step: int = Field(default=32, ge=1)
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of imitating the data's own tokens beside the teacher."""


class Distill(Algorithm):
    """Batches of rendered rows, shuffled anew each epoch, with the teacher beside them."""

    needs = "logprobs+vocabulary"

    def __init__(
        self,
        engine: Engine,
        teacher: Engine,
        rows: list[Sequence],
        held_out: list[Sequence],
        settings: DistillSettings,
        *,
        seed: int,
        probe: Probe | None = None,
    ) -> None:
        self.engine, self.rows, self.held_out, self.probe = engine, rows, held_out, probe
        self.teacher, self.settings = Teacher(teacher, engine), settings
        self.sampler = RowSampler(len(rows), settings.rows_per_step, seed)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        batch = Batch.pack(self.rows[i] for i in self.sampler.indices(step))
        return [fill(batch, self.teacher, self.settings)], {}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        terms = divergence_terms(out, batch, self.teacher, self.settings)
        imitation = nll(out, batch, aggregation=self.settings.aggregation)["nll"]
        return {**terms, "nll": replace(imitation, coefficient=self.settings.nll_weight)}

    def evaluate(self) -> Mapping[str, float]:
        found = dict(self.probe.look(self.engine)) if self.probe else {}
        if self.held_out:
            found |= mean_terms(self, fill(Batch.pack(self.held_out), self.teacher, self.settings))
        return found
