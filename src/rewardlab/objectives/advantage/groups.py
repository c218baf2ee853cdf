"""Statistics per group over unequal, partly invalid groups."""

from __future__ import annotations

import torch
from torch import Tensor


class Groups:
    """Which sequences share a prompt, and which of them have a score. N sequences, G groups."""

    def __init__(self, group: Tensor, valid: Tensor | None = None) -> None:
        self.valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
        """Bool[N]: sequences without a score are in no statistic and get advantage 0."""
        _, self.number = group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        self.count = int(self.number.max()) + 1 if self.number.numel() else 0
        """G."""

    def sum(self, x: Tensor) -> Tensor:
        """Float[G]: the sum over valid members."""
        zeros = torch.zeros(self.count, dtype=x.dtype, device=x.device)
        return zeros.index_add(0, self.number, self.masked(x))

    def size(self, like: Tensor) -> Tensor:
        """Float[G]: valid members."""
        return self.sum(torch.ones_like(like))

    def mean(self, x: Tensor) -> Tensor:
        """Float[G]; 0 where a group has no valid member."""
        return self.sum(x) / self.size(x).clamp(min=1)

    def masked(self, x: Tensor) -> Tensor:
        """x with exact zeros at invalid members, whatever stood there."""
        return torch.where(self.valid, x, torch.zeros_like(x))

    def differs(self, x: Tensor) -> Tensor:
        """Bool[N]: valid members of groups whose valid values are not all equal.

        A mean in floating point can miss the value of an all-equal group by one ulp, and dividing that by
        a tiny std makes noise of order one. So equality is decided on the values, not on differences.
        """
        infinity = torch.full((self.count,), torch.inf, dtype=x.dtype, device=x.device)
        low = infinity.scatter_reduce(0, self.number, torch.where(self.valid, x, torch.inf), "amin")
        high = (-infinity).scatter_reduce(0, self.number, torch.where(self.valid, x, -torch.inf), "amax")
        return (low < high)[self.number] & self.valid

    def centred(self, x: Tensor, baseline: Tensor | None = None) -> Tensor:
        """Float[N]: x minus its group's baseline (default: mean); exact 0 in all-equal groups."""
        base = self.mean(x) if baseline is None else baseline
        return torch.where(self.differs(x), x - base[self.number], torch.zeros_like(x))

    def std(self, centred: Tensor) -> Tensor:
        """Float[G]: standard deviation with n - 1 in the denominator, from centred values."""
        return (self.sum(centred**2) / (self.size(centred) - 1).clamp(min=1)).sqrt()


def batch_normalised(x: Tensor, weight: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(x - mean) / (std + epsilon) over all x with weight > 0, mean and variance weighed; else exact 0.

    The variance has sum(weight) - 1 in its denominator (for 0/1 weights the usual n - 1). All values
    equal, or a total weight of at most one, give exactly 0.
    """
    present = weight > 0
    some = x[present]
    total = weight.sum()
    if some.numel() == 0 or bool((some == some[0]).all()) or float(total) <= 1:
        return torch.zeros_like(x)
    safe = torch.where(present, x, torch.zeros_like(x))
    centred = torch.where(present, safe - (weight * safe).sum() / total, torch.zeros_like(x))
    std = ((weight * centred**2).sum() / (total - 1)).sqrt()
    return centred / (std + epsilon)
