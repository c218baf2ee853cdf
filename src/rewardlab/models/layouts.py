"""How a flat batch is laid out for the network. All layouts give the same numbers; only cost differs.

padded: one row per sequence. packed: all sequences end to end in one row, none sees another. tree: as packed,
but the prompt that several answers share stands there once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.models.attention import Causal, Forest, Plan, Tree

LayoutName = Literal["auto", "padded", "packed", "tree"]


@dataclass(frozen=True)
class Layout:
    """Inputs of one forward pass."""

    input_ids: Tensor
    """Long[B, L]."""
    position_ids: Tensor
    """Long[B, L]."""
    plan: Plan
    """Who attends to whom."""
    index: Tensor
    """Long[T]: flat token t stands at row index[t] // L, column index[t] % L; several may share a place."""


def families(batch: Batch) -> list[list[int]]:
    """Sequences that start alike by design: answers of a group, chosen and rejected of a pair; else alone."""
    if not batch.group.numel():
        return joined_by_pairs(batch)
    found: dict[int, list[int]] = {}
    for i, g in enumerate(batch.group.tolist()):
        found.setdefault(g, []).append(i)
    return list(found.values())


def joined_by_pairs(batch: Batch) -> list[list[int]]:
    """Sequences joined by pairs, directly or through others; the rest alone."""
    members = {i: [i] for i in range(batch.size)}
    for a, b in batch.pairs.tolist():
        if members[a] is not members[b]:
            members[a].extend(members[b])
            for i in members[b]:
                members[i] = members[a]
    return list({id(m): m for m in members.values()}.values())


def common_prefix(batch: Batch, family: list[int]) -> int:
    """Tokens that all of these sequences start with, but never the whole of one; 0 for a single sequence."""
    if len(family) < 2:
        return 0
    offsets, lengths = batch.offsets.tolist(), batch.lengths.tolist()
    size = min(lengths[i] for i in family) - 1
    rows = torch.stack([batch.ids[offsets[i] : offsets[i] + size] for i in family])
    alike = (rows == rows[0]).all(0)
    return int(alike.long().cumprod(0).sum())


def padded(batch: Batch, multiple: int = 1) -> Layout:
    """One row per sequence, padded on the right with id 0, the columns a multiple of `multiple`.

    With causal attention a token never sees the padding behind it, so what the padding holds is
    irrelevant, and nothing is ever found by comparing with a pad id.
    """
    width = int(batch.lengths.max())
    width += -width % multiple
    position = torch.arange(batch.ids.numel(), device=batch.ids.device) - batch.offsets[:-1][batch.seq]
    index = batch.seq * width + position
    ids = batch.ids.new_zeros(batch.size * width)
    ids[index] = batch.ids
    columns = torch.arange(width, device=batch.ids.device)
    return Layout(ids.view(batch.size, width), columns.expand(batch.size, width), Causal(), index)


def packed(batch: Batch, multiple: int = 1) -> Layout:
    """All sequences in one row, its length a multiple of `multiple`; positions restart with each."""
    position = torch.arange(batch.ids.numel(), device=batch.ids.device) - batch.offsets[:-1][batch.seq]
    starts, lengths = batch.offsets.tolist(), batch.lengths.tolist()
    trees = [Tree(start, 0, start, (length,)) for start, length in zip(starts[:-1], lengths, strict=True)]
    index = torch.arange(batch.ids.numel(), device=batch.ids.device)
    return _stream(batch.ids, position, trees, index, multiple)


def tree(batch: Batch, multiple: int = 1) -> Layout:
    """The prefixes that families share, one behind another, then all branches, family by family."""
    starts, lengths = batch.offsets.tolist(), batch.lengths.tolist()
    related = families(batch)
    shared = [common_prefix(batch, family) for family in related]
    index = torch.empty(batch.ids.numel(), dtype=torch.long)
    source: list[Tensor] = []  # flat tokens in the order of the stream
    at, first = 0, sum(shared)
    trees: list[Tree] = []
    for family, prefix in zip(related, shared, strict=True):
        branches = tuple(lengths[i] - prefix for i in family)
        trees.append(Tree(at, prefix, first, branches))
        source.append(torch.arange(starts[family[0]], starts[family[0]] + prefix))
        for i in family:
            index[starts[i] : starts[i] + prefix] = torch.arange(at, at + prefix)
        at, first = at + prefix, first + sum(branches)
    for family, prefix in zip(related, shared, strict=True):
        for i in family:
            branch = torch.arange(starts[i] + prefix, starts[i] + lengths[i])
            source.append(branch)
            index[branch] = torch.arange(at, at + branch.numel())
            at += branch.numel()
    taken = torch.cat(source).to(batch.ids.device)
    position = taken - batch.offsets[:-1][batch.seq][taken]
    return _stream(batch.ids[taken], position, trees, index.to(batch.ids.device), multiple)


def _stream(ids: Tensor, position: Tensor, trees: list[Tree], index: Tensor, multiple: int) -> Layout:
    """One row, filled up with a sequence of its own that no one reads."""
    length = ids.numel()
    if filler := -length % multiple:
        ids = torch.cat([ids, ids.new_zeros(filler)])
        position = torch.cat([position, torch.arange(filler, device=position.device)])
        trees = [*trees, Tree(length, 0, length, (filler,))]
    return Layout(ids[None], position[None], Forest(trees, position), index)


LAYOUTS = {"padded": padded, "packed": packed, "tree": tree}
