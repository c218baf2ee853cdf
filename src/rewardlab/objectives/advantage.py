"""From the rewards of a group to a direction for each of its sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def group_relative(
    reward: Tensor, group: Tensor, valid: Tensor | None = None, *, scale_by_std: bool = False
) -> Tensor:
    """Reward minus its group's mean (GRPO, Shao et al. 2024, arXiv 2402.03300). Float[N] -> Float[N].

    A_i = r_i - mean(r of i's group), and with `scale_by_std` divided by the group's standard deviation
    (n - 1 in the denominator) plus 1e-6. Without scaling it is Dr. GRPO's form (arXiv 2503.20783), which
    does not weigh easy and hard prompts by their spread.

    Groups may have unequal sizes. Sequences that are not `valid` (score abstained or failed) are left out
    of the statistics and get 0. A group of one, or of equal rewards, gets exactly 0.
    """
    if valid is None:
        valid = torch.ones_like(reward, dtype=torch.bool)
    _, number = group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    groups = int(number.max()) + 1 if number.numel() else 0
    keep = valid.to(reward)
    safe = torch.where(valid, reward, torch.zeros_like(reward))

    def per_group(x: Tensor) -> Tensor:
        return torch.zeros(groups, dtype=reward.dtype, device=reward.device).index_add(0, number, x)

    count = per_group(keep)
    mean = per_group(safe) / count.clamp(min=1)
    centred = (safe - mean[number]) * keep
    # A mean in floating point can miss an all-equal group's value by one ulp: make that an exact zero.
    infinity = torch.full((groups,), torch.inf, dtype=reward.dtype, device=reward.device)
    low = infinity.scatter_reduce(0, number, torch.where(valid, reward, torch.inf), "amin")
    high = (-infinity).scatter_reduce(0, number, torch.where(valid, reward, -torch.inf), "amax")
    centred = torch.where((low == high)[number], torch.zeros_like(centred), centred)
    if scale_by_std:
        std = (per_group(centred**2) / (count - 1).clamp(min=1)).sqrt()
        centred = centred / (std[number] + 1e-6)
    return centred
