"""Rendered preference pairs, and the batch they make."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace

import torch

from rewardlab.core.batch import Batch
from rewardlab.core.types import Rollout, Sequence


@dataclass(frozen=True)
class PairRow:
    """A preference as two token sequences."""

    chosen: Sequence
    rejected: Sequence
    label: float = 1.0
    weight: float = 1.0
    margin: float | None = None
    deviation: float | None = None
    """How unlike the prompt's other answers the chosen one is, in [-1, 1], if known."""
    ratings: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Ratings of the chosen and of the rejected answer, NaN where nobody rated, if a stage reads them."""


def pack_pairs(rows: Rows[PairRow]) -> Batch:
    """Sequences 2p and 2p + 1 are the chosen and rejected answer of pair p."""
    streams = {
        "label": torch.tensor([r.label for r in rows]),
        "weight": torch.tensor([r.weight for r in rows]),
    }
    if any(r.margin is not None for r in rows):
        streams["margin"] = torch.tensor([r.margin or 0.0 for r in rows])
    if rows and all(r.deviation is not None for r in rows):
        streams["deviation"] = torch.tensor([r.deviation or 0.0 for r in rows])
    sequences = Batch.pack([s for r in rows for s in (r.chosen, r.rejected)])
    return replace(sequences, pairs=torch.arange(2 * len(rows)).view(-1, 2), pair_streams=streams)


def best_and_worst(rollouts: list[Rollout], usable: list[bool]) -> tuple[list[tuple[int, int]], int]:
    """(best, worst) rollout of each group by score, and how many groups give none.

    Only usable rollouts (all of them with a score) compete. A group with fewer than two of them, or whose
    best ties with its worst, gives no pair. Between equal bests (or worsts) the first drawn is taken; they
    are exchangeable.
    """
    groups: dict[int, list[int]] = {}
    for i, r in enumerate(rollouts):
        groups.setdefault(r.group, []).extend([i] if usable[i] else [])
    pairs = []
    for members in groups.values():
        value = {i: value_of(rollouts[i]) for i in members}
        if not members or max(value.values()) == min(value.values()):
            continue
        pairs.append((max(members, key=lambda i: value[i]), min(members, key=lambda i: value[i])))
    return pairs, len(groups) - len(pairs)


def value_of(rollout: Rollout) -> float:
    """The score of a rollout that is known to have one."""
    if rollout.score is None or rollout.score.value is None:
        raise ValueError("a rollout without a score cannot be ranked")
    return rollout.score.value
