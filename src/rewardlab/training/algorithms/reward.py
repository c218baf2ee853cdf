"""Reward model: a scalar head whose differences predict preferences (Bradley-Terry).

loss = - mean over pairs of [y log sigmoid(d) + (1 - y) log sigmoid(-d)] + centring,  d = s_c - s_r - margin

With a `smoothing_rate` the labels y follow the model, once at the start of each epoch but the first
(iterative data smoothing, Zhu, Jordan, Jiao 2024, arXiv 2401.16335): y <- (1 - rate) y + rate sigmoid(s_c -
s_r). Held-out labels stay as they are. A step that crosses the end of an epoch takes the labels of the epoch
it began in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from rewardlab.core.batch import Batch, Outputs
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.reward import bradley_terry, smoothed_label
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
        smoothing_rate: float = 0.0,
    ) -> None:
        self.engine, self.rows, self.held_out, self.centring = engine, rows, held_out, centring
        self.sampler = RowSampler(len(rows), pairs_per_step, seed)
        self.smoothing_rate, self.epoch = smoothing_rate, 0
        self.labels = torch.tensor([r.label for r in rows])  # Float[len(rows)], as this epoch sees them

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.sampler.indices(step)
        batch = pack_pairs([self.rows[i] for i in chosen])
        if not self.smoothing_rate:
            return [batch], {}
        epoch = step * self.sampler.rows_per_step // len(self.rows)
        if epoch > self.epoch:
            self.epoch = epoch
            scores = self.engine.frozen_scores(pack_pairs(self.rows))
            gap = scores[::2] - scores[1::2]
            self.labels = smoothed_label(self.labels, gap, rate=self.smoothing_rate)
        smoothed = {**batch.pair_streams, "label": self.labels[chosen]}
        return [replace(batch, pair_streams=smoothed)], {"mean_label": float(self.labels.mean())}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        return bradley_terry(out, batch, centring=self.centring)

    def evaluate(self) -> Mapping[str, float]:
        return mean_terms(self, pack_pairs(self.held_out)) if self.held_out else {}

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels, "epoch": self.epoch} if self.smoothing_rate else {}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.smoothing_rate:
            self.labels, self.epoch = state["labels"], state["epoch"]
        else:
            super().load_state(state)
