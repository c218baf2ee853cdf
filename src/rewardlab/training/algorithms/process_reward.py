"""Process reward model: a scalar head that says of every step of an answer whether it is right.

loss = - mean over labelled steps of [y log sigmoid(s) + (1 - y) log sigmoid(-s)], s at the step's last token

Papers: Uesato et al. 2022 (arXiv 2211.14275), Lightman et al. 2023 (arXiv 2305.20050). Where a step ends is
known from its place in the text, never from a separator id, so answers need no special token.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.types import Sequence
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.reward import process
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms


@dataclass(frozen=True)
class StepRow:
    """A rendered answer, the positions of its steps' last tokens, and their labels."""

    sequence: Sequence
    ends: tuple[int, ...]
    labels: tuple[float | None, ...]
    """None: not trained on."""


def pack_steps(rows: Rows[StepRow]) -> Batch:
    """A batch whose `weight` is 1 exactly at the last token of each labelled step, 0 elsewhere."""
    batch = Batch.pack([r.sequence for r in rows])
    label, weight = torch.zeros(batch.ids.numel()), torch.zeros(batch.ids.numel())
    for start, row in zip(batch.offsets[:-1].tolist(), rows, strict=True):
        for end, y in zip(row.ends, row.labels, strict=True):
            if y is not None:
                label[start + end], weight[start + end] = y, 1.0
    return batch.with_streams(step_label=label, weight=weight)


class ProcessRewardModelling(Algorithm):
    """Batches of answers in steps, shuffled anew each epoch."""

    needs = "token_scores"

    def __init__(
        self, engine: Engine, rows: list[StepRow], held_out: list[StepRow], *, rows_per_step: int, seed: int
    ) -> None:
        self.engine, self.rows, self.held_out = engine, rows, held_out
        self.sampler = RowSampler(len(rows), rows_per_step, seed)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        return [pack_steps([self.rows[i] for i in self.sampler.indices(step)])], {}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        return process(given(out.token_scores), batch)

    def evaluate(self) -> Mapping[str, float]:
        return mean_terms(self, pack_steps(self.held_out)) if self.held_out else {}
