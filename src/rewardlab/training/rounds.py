"""A round of an online algorithm: one sampling, several passes of updates over it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from rewardlab.core.batch import Batch


def shuffled_passes(batch: Batch, epochs: int, minibatches: int, generator: torch.Generator) -> list[Batch]:
    """`epochs` times the whole batch, each time in another order and cut into `minibatches` parts.

    Sequences stay whole; parts differ in size by at most one, and empty ones are left out.
    """
    bounds = [round(k * batch.size / minibatches) for k in range(minibatches + 1)]
    parts = []
    for _ in range(epochs):
        order = torch.randperm(batch.size, generator=generator).tolist()
        parts += [batch.select(sorted(order[a:b])) for a, b in pairwise(bounds) if b > a]
    return parts


def explained_variance(value: Tensor, returns: Tensor) -> float:
    """1 - var(return - value) / var(return): 1 for a perfect critic, 0 for one that says nothing.

    0 where the returns do not vary.
    """
    if returns.numel() < 2 or float(spread := returns.var()) == 0.0:
        return 0.0
    return float(1 - (returns - value).var() / spread)
