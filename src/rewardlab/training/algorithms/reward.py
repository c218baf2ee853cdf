"""Reward model: a scalar head whose differences predict preferences (Bradley-Terry).

loss = - mean over pairs of [y log sigmoid(s_c - s_r) + (1 - y) log sigmoid(s_r - s_c)] + centring
"""

from __future__ import annotations

from collections.abc import Mapping

from rewardlab.core.batch import Batch, Outputs
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.reward import bradley_terry
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms
from rewardlab.training.pairs import PairRow, pack_pairs


class RewardModelling(Algorithm):
    """Batches of pairs, shuffled anew each epoch."""

    needs = "scores"

    def __init__(
        self,
        engine: Engine,
        rows: list[PairRow],
        held_out: list[PairRow],
        *,
        pairs_per_step: int,
        centring: float,
        seed: int,
    ) -> None:
        self.engine, self.rows, self.held_out, self.centring = engine, rows, held_out, centring
        self.sampler = RowSampler(len(rows), pairs_per_step, seed)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        return [pack_pairs([self.rows[i] for i in self.sampler.indices(step)])], {}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        return bradley_terry(out, batch, centring=self.centring)

    def evaluate(self) -> Mapping[str, float]:
        return mean_terms(self, pack_pairs(self.held_out)) if self.held_out else {}
