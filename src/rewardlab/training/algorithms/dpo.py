"""DPO and its kin: make the chosen answer more likely than the rejected one, relative to the starting policy.

loss = - mean over pairs of log sigmoid(beta * (change in log p(chosen) - change in log p(rejected)))

or any other preference loss, or a weighted sum of them, as the settings name them. The reference's log-probs
are computed once, before the first step, so no second model is kept; losses that need none skip that.
Losses that depend on the whole step (aot, bco_pair with a running delta) get it from one more forward
pass before the update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.preference import PreferenceSettings, match, preference, running_delta
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
        settings: PreferenceSettings,
        seed: int,
        probe: Probe | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.engine, self.rows, self.held_out, self.probe = engine, rows, held_out, probe
        self.settings, self.bco_delta = settings, 0.0
        self.sampler = RowSampler(len(rows), pairs_per_step, seed)
        compared = settings.needs_reference
        self.reference = _reference(engine, rows, progress) if compared else []
        self.held_out_reference = _reference(engine, held_out, progress) if compared else []

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.sampler.indices(step)
        reference = [self.reference[i] for i in chosen] if self.reference else []
        batch = self._fill([self.rows[i] for i in chosen], reference)
        if "bco_pair" not in self.settings.loss or self.settings.bco_momentum is None:
            return [batch], {}
        logp = given(self.engine.frozen_logprobs(batch).logp)
        s, k = self.settings, self.settings.bco_momentum
        self.bco_delta = running_delta(self.bco_delta, logp, batch, beta=s.beta, momentum=k, tail=s.tail)
        return [batch], {"bco_delta": self.bco_delta}

    def _fill(self, rows: list[PairRow], reference: list[Tensor]) -> Batch:
        """The whole step's batch, with the reference and the ranks that its losses read."""
        batch = pack_pairs(rows)
        if reference:
            batch = batch.with_streams(logp_ref=torch.cat(reference))
        if self.settings.needs_whole_step:
            batch = match(batch, given(self.engine.frozen_logprobs(batch).logp), self.settings)
        return batch

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        return preference(out, batch, self.settings, bco_delta=self.bco_delta)

    def evaluate(self) -> Mapping[str, float]:
        found = dict(self.probe.look(self.engine)) if self.probe else {}
        if self.held_out:
            found |= mean_terms(self, self._fill(self.held_out, self.held_out_reference))
        return found

    def state(self) -> dict[str, Any]:
        return {"bco_delta": self.bco_delta}

    def load_state(self, state: dict[str, Any]) -> None:
        self.bco_delta = float(state["bco_delta"])


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
