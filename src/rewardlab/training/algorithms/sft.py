"""Supervised fine-tuning: imitate the trained tokens.

loss = - mean over trained tokens of log p(token | prefix)

or another supervised loss, as the settings name it; prompts are read and never imitated. A row's weight
is its number of trained tokens, unless `aggregation` says otherwise. With `shares` the loss is the sum
over sources of share times the mean over that source's tokens (answers), however many rows it has.

The starting policy's log-probs, where a loss compares with them, are computed once before the first step;
its distributions over the vocabulary are computed beside each micro-batch by a frozen copy (or with the
adapters off), and never kept.

Feasible learning keeps a multiplier per row, 0 at the start. A step first moves the multipliers of its
rows by their losses at that moment (one more forward pass), then trains on the weighted losses: the same
alternation as the other way round, without an empty first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.types import Sequence
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine, Reference
from rewardlab.models.reference_cache import ReferenceCache
from rewardlab.objectives.feasible import dual_update, sequence_nll
from rewardlab.objectives.imitation import PER_SEQUENCE, SupervisedSettings, supervised
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.supervised import source_weights
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms
from rewardlab.training.probe import Probe
from rewardlab.training.reference import sequence_logprobs

NLL = SupervisedSettings()


class SFT(Algorithm):
    """Batches of rendered rows, shuffled anew each epoch. Build it before any step is taken."""

    def __init__(
        self,
        engine: Engine,
        rows: list[Sequence],
        held_out: list[Sequence],
        *,
        rows_per_step: int,
        seed: int,
        settings: SupervisedSettings = NLL,
        source: Rows[int] = (),
        shares: Mapping[int, float] | None = None,
        probe: Probe | None = None,
        progress: Progress = NO_PROGRESS,
        cache: ReferenceCache | None = None,
    ) -> None:
        """`source[i]` is the number of row i's source, and `shares` each source's part of the loss."""
        if shares is not None and settings.loss in PER_SEQUENCE:
            raise ValueError(f"{settings.loss} has no weights of tokens, so sources cannot have shares")
        self.engine, self.rows, self.held_out, self.probe = engine, rows, held_out, probe
        self.settings, self.source, self.shares = settings, source, shares
        self.sampler = RowSampler(len(rows), rows_per_step, seed)
        compared = settings.needs_logp_ref
        self.reference = sequence_logprobs(engine, rows, progress, cache) if compared else []
        self.held_out_reference = sequence_logprobs(engine, held_out, progress, cache) if compared else []
        self.start = Reference(engine) if settings.needs_distribution else None
        self.dual = torch.zeros(len(rows))

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        at = self.sampler.indices(step)
        batch = self._pack([self.rows[i] for i in at], [self.reference[i] for i in at if self.reference])
        if self.shares is not None:
            source = torch.tensor([self.source[i] for i in at])
            per = "token" if self.settings.aggregation == "token" else "sequence"
            batch = batch.with_streams(weight=source_weights(batch, source, self.shares, per))
        if self.settings.loss == "feasible":
            self._move_duals(at, batch)
            return [_with_dual(batch, self.dual[at])], {"dual_max": float(self.dual.max())}
        return [batch], {}

    def compute(self, micro: Batch) -> Outputs:
        smoothed = self.settings.label_smoothing > 0
        return self.engine.logprobs(micro, mean=smoothed, vocabulary=self.start is not None)

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        if self.start is not None:
            batch = replace(batch, action_streams={"slice_logp": self.start.distributions(batch)})
        return supervised(out, batch, **self.settings.knobs())

    def evaluate(self) -> Mapping[str, float]:
        """On held-out rows, sources unweighted; for feasible the plain mean of the rows' losses."""
        found = dict(self.probe.look(self.engine)) if self.probe else {}
        if self.held_out:
            batch = self._pack(self.held_out, self.held_out_reference)
            if self.settings.loss == "feasible":
                batch = _with_dual(batch, torch.ones(batch.size))
            found |= mean_terms(self, batch)
        return found

    def state(self) -> dict[str, Any]:
        return {"dual": self.dual} if self.settings.loss == "feasible" else {}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.settings.loss == "feasible":
            self.dual = state["dual"]
        else:
            super().load_state(state)

    def _pack(self, rows: list[Sequence], reference: list[Tensor]) -> Batch:
        batch = Batch.pack(rows)
        return batch.with_streams(logp_ref=torch.cat(reference)) if reference else batch

    def _move_duals(self, at: list[int], batch: Batch) -> None:
        s = self.settings
        loss = sequence_nll(self.engine.frozen_logprobs(batch), batch)
        self.dual[at] = dual_update(
            self.dual[at],
            loss,
            tolerance=s.tolerance,
            rate=s.dual_rate,
            relaxation=math.inf if s.dual_relaxation is None else s.dual_relaxation,
        )


def _with_dual(batch: Batch, dual: Tensor) -> Batch:
    return batch.with_streams(dual=dual.repeat_interleave(batch.lengths))
