"""Weights of pairs by how unlike the other answers the chosen one is."""

from __future__ import annotations

import torch
from torch import Tensor


def deviation(distance: Tensor, group: Tensor) -> Tensor:
    """Distances to the other answers of the same prompt, scaled to [-1, 1] per prompt. Float[N] -> Float[N].

    `distance` is an answer's mean distance (of embeddings, say) to its group's other answers. A group
    whose distances are all equal gets 0.
    """
    _, number = group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    groups = int(number.max()) + 1 if number.numel() else 0
    start = torch.zeros(groups, dtype=distance.dtype, device=distance.device)
    low = start.scatter_reduce(0, number, distance, "amin", include_self=False)[number]
    high = start.scatter_reduce(0, number, distance, "amax", include_self=False)[number]
    spread = high - low
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    return torch.where(spread > 0, 2 * (distance - low) / safe - 1, torch.zeros_like(distance))


def combined_deviation(*kinds: Tensor) -> Tensor:
    """Several kinds (semantic, style, ...) as one: 2 * geometric mean of (d + 1) / 2, minus 1."""
    halves = torch.stack([((k + 1) / 2).clamp(0, 1) for k in kinds])
    product = halves.prod(0)
    return 2 * product ** (1 / len(kinds)) - 1


def deviation_weight(of_chosen: Tensor, *, floor: float = -0.8) -> Tensor:
    """1 + max(deviation of the chosen answer, floor): rare good answers count more (arXiv 2503.17126).

    Float[P] in [-1, 1] -> Float[P] in [0.2, 2]. The weight of diversified DPO and ORPO; as a pair's weight
    it multiplies any of the losses.
    """
    return 1 + of_chosen.clamp(min=floor)
