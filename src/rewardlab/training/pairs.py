"""Rendered preference pairs, and the batch they make."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace

import torch

from rewardlab.core.batch import Batch
from rewardlab.core.types import Sequence


@dataclass(frozen=True)
class PairRow:
    """A preference as two token sequences."""

    chosen: Sequence
    rejected: Sequence
    label: float = 1.0
    weight: float = 1.0
    margin: float | None = None


def pack_pairs(rows: Rows[PairRow]) -> Batch:
    """Sequences 2p and 2p + 1 are the chosen and rejected answer of pair p."""
    streams = {
        "label": torch.tensor([r.label for r in rows]),
        "weight": torch.tensor([r.weight for r in rows]),
    }
    if any(r.margin is not None for r in rows):
        streams["margin"] = torch.tensor([r.margin or 0.0 for r in rows])
    sequences = Batch.pack([s for r in rows for s in (r.chosen, r.rejected)])
    return replace(sequences, pairs=torch.arange(2 * len(rows)).view(-1, 2), pair_streams=streams)
