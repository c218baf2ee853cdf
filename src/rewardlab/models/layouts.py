"""How a flat batch is laid out for the network: padded rows or one packed row.

Both give the same numbers; only cost differs. A layout holds the network's inputs and `index`, the
place of every flat token in the network's [B, L] output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch

LayoutName = Literal["padded", "packed"]


@dataclass(frozen=True)
class Layout:
    """Inputs of one forward pass."""

    input_ids: Tensor
    """Long[B, L]."""
    position_ids: Tensor
    """Long[B, L]."""
    attention_mask: Tensor | None
    """Bool[B, L] (true: real token), or Bool[1, 1, T, T] (true: may attend), or None (causal)."""
    index: Tensor
    """Long[T]: flat token t stands at row index[t] // L, column index[t] % L."""


def padded(batch: Batch) -> Layout:
    """One row per sequence, padded on the right.

    With causal attention a token never sees the padding behind it, so what the padding holds is
    irrelevant; id 0 is used, and nothing is ever found by comparing with a pad id.
    """
    lengths = batch.lengths
    width = int(lengths.max())
    position = torch.arange(batch.ids.numel(), device=batch.ids.device) - batch.offsets[:-1][batch.seq]
    index = batch.seq * width + position
    ids = batch.ids.new_zeros(batch.size * width)
    ids[index] = batch.ids
    columns = torch.arange(width, device=batch.ids.device)
    mask = columns[None] < lengths[:, None]
    return Layout(
        ids.view(batch.size, width),
        columns.expand(batch.size, width),
        None if bool((lengths == width).all()) else mask,
        index,
    )


def packed(batch: Batch) -> Layout:
    """All sequences in one row, with a block-diagonal causal mask and positions that restart."""
    tokens = torch.arange(batch.ids.numel(), device=batch.ids.device)
    seq = batch.seq
    same = seq[:, None] == seq[None, :]
    causal = tokens[:, None] >= tokens[None, :]
    position = tokens - batch.offsets[:-1][seq]
    return Layout(batch.ids[None], position[None], (same & causal)[None, None], tokens)


LAYOUTS = {"padded": padded, "packed": packed}
