"""Supervised fine-tuning: imitate the trained tokens.

loss = - mean over trained tokens of log p(token | prefix)

A row's weight is its number of trained tokens; prompts are read and never imitated.
"""

from __future__ import annotations

from collections.abc import Mapping

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.supervised import nll
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms
from rewardlab.training.probe import Probe


class SFT(Algorithm):
    """Batches of rendered rows, shuffled anew each epoch."""

    def __init__(
        self,
        engine: Engine,
        rows: list[Sequence],
        held_out: list[Sequence],
        *,
        rows_per_step: int,
        seed: int,
        probe: Probe | None = None,
    ) -> None:
        self.engine, self.rows, self.held_out, self.probe = engine, rows, held_out, probe
        self.sampler = RowSampler(len(rows), rows_per_step, seed)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        return [Batch.pack(self.rows[i] for i in self.sampler.indices(step))], {}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        return nll(out, batch)

    def evaluate(self) -> Mapping[str, float]:
        loss = mean_terms(self, Batch.pack(self.held_out)) if self.held_out else {}
        return {**loss, **(self.probe.look(self.engine) if self.probe else {})}
