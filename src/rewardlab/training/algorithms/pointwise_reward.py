"""Reward model on single answers with a number each: a score, right or wrong, or a grade.

regression: mean of (s - (y - mean) / sd)^2, mean and sd those of the training labels
binary:     mean of -y log sigmoid(s) - (1 - y) log sigmoid(-s), y a probability in [0, 1]
ordinal:    mean of -log [sigmoid(b_y - s) - sigmoid(b_{y-1} - s)], y one of K grades

The cut-points b are fixed: b_k = logit(share of training labels up to grade k), the maximum of the likelihood
for a head that says nothing yet. Learning them would put parameters beside the model that its folder, its
adapters and other loaders of it do not know. The price: a grade's probability never exceeds tanh(w / 4), w
the distance of its two cut-points, so inner grades are told apart less sharply. The order of answers is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from scipy import stats
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Sequence
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.reward import ordinal, outcome, regression
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms

MOST_GRADES = 100


@dataclass(frozen=True)
class RatedRow:
    """A rendered answer and its number."""

    answer: Sequence
    label: float


class PointwiseRewardSettings(Settings):
    """Knobs of the method."""

    head: Literal["regression", "binary", "ordinal"] = "regression"
    """`regression`: any number. `binary`: true, false or a probability. `ordinal`: a whole number."""
    edges: list[float] = []
    """Where numbers are cut into grades 0, 1, ...: a grade is how many edges are at or below the number.
    For `binary` one edge parts bad from good. Empty: labels are what the head wants."""
    answers_per_step: int = Field(default=32, ge=1)

    @field_validator("edges")
    @classmethod
    def _increasing(cls, edges: list[float]) -> list[float]:
        if not all(math.isfinite(x) for x in edges) or any(a >= b for a, b in pairwise(edges)):
            raise ValueError("edges must be finite and increase")
        return edges

    @model_validator(mode="after")
    def _one_edge(self) -> PointwiseRewardSettings:
        if self.head == "binary" and len(self.edges) > 1:
            raise ValueError("`head: binary` takes one of `edges`; `head: ordinal` takes several")
        return self

    def target(self, label: float) -> float:
        """The label as the head wants it; ValueError says what is wrong with it."""
        if self.edges:
            return float(sum(edge <= label for edge in self.edges))
        if self.head == "binary" and not 0 <= label <= 1:
            raise ValueError("not a probability")
        if self.head == "ordinal" and label != round(label):
            raise ValueError("not a whole number")
        return label


class PointwiseRewardModelling(Algorithm):
    """Batches of answers, shuffled anew each epoch; `labels` says how a score is read back."""

    needs = "scores"

    def __init__(
        self,
        engine: Engine,
        rows: list[RatedRow],
        held_out: list[RatedRow],
        settings: PointwiseRewardSettings,
        *,
        seed: int,
    ) -> None:
        self.engine, self.rows, self.held_out = engine, rows, held_out
        self.sampler = RowSampler(len(rows), settings.answers_per_step, seed)
        label = torch.tensor([r.label for r in rows], dtype=torch.float64)
        if bool((label == label[0]).all()):
            raise UserError(
                f"all {len(rows)} training labels are {label[0]:g}: there is nothing to learn.",
                "Check the column `label`, and `edges`.",
            )
        self.labels: dict[str, Any] = {"head": settings.head}
        if settings.head == "regression":
            self.labels |= {"mean": float(label.mean()), "sd": float(label.std(correction=0))}
        elif settings.head == "ordinal":
            self.labels |= _grades(label, [r.label for r in held_out], settings.edges)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        return [self.pack([self.rows[i] for i in self.sampler.indices(step)])], {}

    def pack(self, rows: Rows[RatedRow]) -> Batch:
        """The answers with the head's targets as `reward`."""
        label = torch.tensor([r.label for r in rows], dtype=torch.float64)
        if "sd" in self.labels:
            label = (label - self.labels["mean"]) / self.labels["sd"]
        elif "lowest" in self.labels:
            label = label - self.labels["lowest"]
        return replace(Batch.pack(r.answer for r in rows), reward=label.float())

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        if self.labels["head"] == "binary":
            return outcome(out, batch)
        if self.labels["head"] == "ordinal":
            return ordinal(out, batch, cutpoints=torch.tensor(self.labels["cutpoints"]).to(batch.ids.device))
        terms = regression(out, batch)
        terms["error"] = replace(terms["error"], total=terms["error"].total * self.labels["sd"])
        return terms

    def evaluate(self) -> Mapping[str, float]:
        """The terms on held-out answers, and Spearman's correlation of scores and labels where it exists."""
        if not self.held_out:
            return {}
        batch = self.pack(self.held_out)
        labels = [r.label for r in self.held_out]
        found = mean_terms(self, batch)
        if len(set(labels)) > 1:
            rank = stats.spearmanr(self.engine.frozen_scores(batch).numpy(), labels).statistic
            found |= {"eval_rank_correlation": float(rank)} if math.isfinite(rank) else {}
        return found


def _grades(label: Tensor, held_out: list[float], edges: list[float]) -> dict[str, Any]:
    """The lowest grade and the cut-points. Half a row is added to every grade: an empty one has its place."""
    lowest, highest = (0, len(edges)) if edges else (int(label.min()), int(label.max()))
    if highest - lowest >= MOST_GRADES:
        raise UserError(
            f"the grades go from {lowest} to {highest}, more than {MOST_GRADES}.",
            "Cut them with `edges`, or use `head: regression`.",
        )
    if beyond := [x for x in held_out if not lowest <= x <= highest]:
        raise UserError(
            f"a held-out grade is {beyond[0]:g}; the training grades go from {lowest} to {highest}.",
            "Add training rows of that grade, or leave the row out.",
        )
    count = torch.bincount((label - lowest).long(), minlength=highest - lowest + 1) + 0.5
    share = (count.cumsum(0) / count.sum())[:-1]
    return {"lowest": lowest, "cutpoints": torch.logit(share).tolist()}
