"""DPO and its kin: make the chosen answer more likely than the rejected one, relative to the starting policy.

loss = - mean over pairs of log sigmoid(beta * (change in log p(chosen) - change in log p(rejected)))

or any other preference loss, or a weighted sum of them, as the settings name them. The reference's log-probs
are computed once, before the first step, or read from a cache; no second model is kept. Losses that need none
skip that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.models.reference_cache import ReferenceCache
from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.training.loop import mean_terms
from rewardlab.training.pairs import PairRow
from rewardlab.training.preference import PreferenceAlgorithm, reference_logprobs
from rewardlab.training.probe import Probe


class DPO(PreferenceAlgorithm):
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
        cache: ReferenceCache | None = None,
    ) -> None:
        super().__init__(engine, settings)
        self.rows, self.held_out, self.probe = rows, held_out, probe
        self.sampler = RowSampler(len(rows), pairs_per_step, seed)

        def once(pairs: list[PairRow]) -> list[Tensor]:
            if not settings.needs_reference:
                return []
            return reference_logprobs(self.logprobs, pairs, progress, cache)

        self.reference, self.held_out_reference = once(rows), once(held_out)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.sampler.indices(step)
        reference = [self.reference[i] for i in chosen] if self.reference else []
        return self.update([self.rows[i] for i in chosen], torch.cat(reference) if reference else None)

    def evaluate(self) -> Mapping[str, float]:
        found = dict(self.probe.look(self.engine)) if self.probe else {}
        if self.held_out:
            reference = torch.cat(self.held_out_reference) if self.held_out_reference else None
            found |= mean_terms(self, self.fill(self.held_out, reference))
        return found
