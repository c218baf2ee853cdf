"""DPO: make the chosen answer more likely than the rejected one, relative to the starting policy.

loss = - mean over pairs of log sigmoid(beta * (change in log p(chosen) - change in log p(rejected)))

The reference's log-probs are computed once, before the first step, so no second model is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.preference import dpo
from rewardlab.objectives.reduction import Terms
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms
from rewardlab.training.pairs import PairRow, pack_pairs
from rewardlab.training.probe import Probe

PAIRS_AT_ONCE = 256


class DPO(Algorithm):
    """Batches of pairs with the reference's log-probs beside them. Build it before any step is taken."""

    def __init__(
        self,
        engine: Engine,
        rows: list[PairRow],
        held_out: list[PairRow],
        *,
        pairs_per_step: int,
        beta: float,
        label_smoothing: float,
        seed: int,
        probe: Probe | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.engine, self.rows, self.held_out, self.probe = engine, rows, held_out, probe
        self.beta, self.label_smoothing = beta, label_smoothing
        self.sampler = RowSampler(len(rows), pairs_per_step, seed)
        self.reference = _reference(engine, rows, progress)
        self.held_out_reference = _reference(engine, held_out, progress)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.sampler.indices(step)
        batch = pack_pairs([self.rows[i] for i in chosen])
        return [batch.with_streams(logp_ref=torch.cat([self.reference[i] for i in chosen]))], {}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        return dpo(out, batch, beta=self.beta, label_smoothing=self.label_smoothing)

    def evaluate(self) -> Mapping[str, float]:
        found = dict(self.probe.look(self.engine)) if self.probe else {}
        if self.held_out:
            batch = pack_pairs(self.held_out).with_streams(logp_ref=torch.cat(self.held_out_reference))
            found |= mean_terms(self, batch)
        return found


def _reference(engine: Engine, rows: list[PairRow], progress: Progress) -> list[Tensor]:
    """For each pair, the reference's log-probs of the chosen then the rejected sequence's tokens."""
    found: list[Tensor] = []
    with progress.task("reference log-probs", len(rows)) as task:
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            batch = pack_pairs(rows[start : start + PAIRS_AT_ONCE])
            logp = given(engine.frozen_logprobs(batch).logp)
            sizes = batch.lengths.view(-1, 2).sum(1).tolist()
            found.extend(torch.split(logp, sizes))
            task.advance(len(sizes))
    return found
