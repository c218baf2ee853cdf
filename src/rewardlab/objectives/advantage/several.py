"""Advantages from more than one number per answer: several objectives, or comparisons within a group."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.objectives.advantage.groups import Groups, batch_normalised


def gdpo(
    parts: Tensor,
    weights: Tensor,
    group: Tensor,
    valid: Tensor | None = None,
    *,
    epsilon: float = 1e-4,
) -> Tensor:
    """Normalise each objective in its group, add, normalise over the batch (GDPO, arXiv 2601.05242).

    z_k = (r_k - group mean) / (group std + epsilon);  A = normalise over the batch (sum_k w_k z_k)

    `parts` Float[K, N], `weights` Float[K]. Summing raw rewards first lets the objective of largest
    spread drown the others and maps different mixtures to one advantage; this keeps them apart. A part
    that is NaN (that objective abstained) adds 0 to the answer and is not in its group's statistics. The
    batch normalisation is over answers (as TRL's `normalize_then_sum`; verl's is over tokens). Equal
    rewards in all objectives give 0 before it and exactly 0 after it.
    """
    if parts.ndim != 2 or weights.shape != parts.shape[:1]:
        raise UserError(
            f"advantage gdpo: {tuple(parts.shape)} rewards do not fit {tuple(weights.shape)} weights.",
            "Give one weight per objective.",
        )
    every = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    total = torch.zeros_like(parts[0])
    alive = torch.zeros_like(every)
    for reward, weight in zip(parts, weights, strict=True):
        groups = Groups(group, every & ~reward.isnan())
        centred = groups.centred(reward)
        total = total + weight * centred / (groups.std(centred)[groups.number] + epsilon)
        alive = alive | (groups.differs(reward) & (weight != 0))
    normal = batch_normalised(total, every.to(total), epsilon)
    return torch.where(alive, normal, torch.zeros_like(normal))


def pairwise(preference: Tensor, valid: Tensor | None = None) -> Tensor:
    """A group's answers from a matrix of comparisons, Float[G, G] -> Float[G] (Think-RM, arXiv 2505.16265).

    A_i = (sum_j d_ij / G) / sqrt(sum_ij d_ij^2 / (2 G (G - 1)))

    d_ij says by how much answer i beats j and must be antisymmetric. Where d_ij = r_i - r_j this is
    (r_i - mean r) / std with n - 1, GRPO's advantage exactly. Invalid answers are left out and get 0; so
    does a group of one, or one without any preference.
    """
    size = preference.shape[0]
    if preference.shape != (size, size):
        raise UserError(f"advantage pairwise: the matrix is {tuple(preference.shape)}, not square.")
    keep = torch.ones(size, dtype=torch.bool, device=preference.device) if valid is None else valid
    both = keep[:, None] & keep[None, :]
    d = torch.where(both, preference, torch.zeros_like(preference))
    if not torch.allclose(d, -d.T, atol=1e-5):
        raise UserError(
            "advantage pairwise: the matrix is not antisymmetric (d_ij = -d_ji).",
            "Average both orders: (d - d.T) / 2.",
        )
    n = int(keep.sum())
    square = (d**2).sum()
    if n < 2 or float(square) == 0.0:
        return torch.zeros_like(d[0])
    return d.sum(1) / n / (square / (2 * n * (n - 1))).sqrt()
