"""What every algorithm that learns from pairs does at a step: reference, whole-step statistics, loss.

Losses that depend on the whole step (aot, bco_pair with a running delta) get it from one more forward
pass before the update. tdpo reads the starting policy's distributions over the vocabulary: a frozen copy (or
the policy with its adapters off) computes them beside each micro-batch, and they are never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.models.engine import Engine, Reference
from rewardlab.models.reference_cache import ReferenceCache
from rewardlab.objectives.preference import PreferenceSettings, match, preference, running_delta
from rewardlab.objectives.reduction import Terms
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.pairs import PairRow, pack_pairs
from rewardlab.training.reference import row_logprobs

PAIRS_AT_ONCE = 256


class PreferenceAlgorithm(Algorithm):
    """An algorithm whose updates are preference losses; where its pairs come from is the subclass's."""

    def __init__(self, engine: Engine, settings: PreferenceSettings) -> None:
        self.engine, self.settings, self.bco_delta = engine, settings, 0.0
        self.start = Reference(engine) if settings.needs_reference_distribution else None

    def logprobs(self, batch: Batch) -> Tensor:
        """Float[T]: the policy's log-probs as it is now, without gradient."""
        return given(self.engine.frozen_logprobs(batch).logp)

    def update(self, rows: list[PairRow], logp_ref: Tensor | None) -> tuple[list[Batch], Mapping[str, float]]:
        """One update on these pairs, and numbers to log. `logp_ref` Float[T] lies as `pack_pairs` has it."""
        batch = self.fill(rows, logp_ref)
        if "bco_pair" not in self.settings.loss or self.settings.bco_momentum is None:
            return [batch], {}
        logp = self.logprobs(batch)
        s, k = self.settings, self.settings.bco_momentum
        self.bco_delta = running_delta(self.bco_delta, logp, batch, beta=s.beta, momentum=k, tail=s.tail)
        return [batch], {"bco_delta": self.bco_delta}

    def fill(self, rows: list[PairRow], logp_ref: Tensor | None) -> Batch:
        """The whole step's batch, with the reference and the ranks that its losses read."""
        batch = pack_pairs(rows)
        if logp_ref is not None:
            batch = batch.with_streams(logp_ref=logp_ref)
        if self.settings.needs_whole_step:
            batch = match(batch, self.logprobs(batch), loss=self.settings.loss, tail=self.settings.tail)
        return batch

    def compute(self, micro: Batch) -> Outputs:
        return self.engine.logprobs(micro, vocabulary=self.settings.needs_distribution)

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        if self.start is not None:
            batch = replace(batch, action_streams={"slice_logp": self.start.distributions(batch)})
        return preference(out, batch, bco_delta=self.bco_delta, **self.settings.knobs())

    def state(self) -> dict[str, Any]:
        return {"bco_delta": self.bco_delta}

    def load_state(self, state: dict[str, Any]) -> None:
        self.bco_delta = float(state["bco_delta"])


def reference_logprobs(
    compute: Callable[[Batch], Tensor],
    rows: list[PairRow],
    progress: Progress = NO_PROGRESS,
    cache: ReferenceCache | None = None,
) -> list[Tensor]:
    """For each pair, what `compute` gives for the chosen then the rejected sequence's tokens."""
    return row_logprobs(
        lambda chunk: compute(pack_pairs(chunk)),
        rows,
        lambda pair: (pair.chosen, pair.rejected),
        PAIRS_AT_ONCE,
        progress,
        cache,
    )


def refuse_deviation(settings: PreferenceSettings, name: str) -> None:
    """Deviations are given with the rows of a file; pairs of own answers have none."""
    if settings.deviation_floor is not None:
        raise UserError(
            f"{name}: deviation_floor is set, but pairs of own answers have no deviation.",
            "Leave deviation_floor out, or train with `dpo` on given pairs.",
        )
