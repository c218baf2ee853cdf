"""Quality apart from length: two heads, of which one is made to explain the length."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.objectives.reward.pairwise import soft_logistic


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of two Float[N]; 0 where either is constant."""
    x, y = a - a.mean(), b - b.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).clamp(min=1e-12).sqrt()


def disentangled(
    quality: Tensor,
    verbosity: Tensor,
    length: Tensor,
    label: Tensor,
    weights: tuple[Tensor, Tensor],
    *,
    length_weight: float = 1.0,
    orthogonal_weight: float = 1.0,
) -> Tensor:
    """The loss of a quality and a length head on preferences; quality alone is used as the reward.

    loss = mean_p soft_logistic(s_c - s_r, y), s = quality + verbosity
         + length_weight * (|corr(quality, length)| - corr(verbosity, length))
         + orthogonal_weight * |cos(w_q, w_l)|

    `quality`, `verbosity`, `length` Float[2P]: first the P chosen, then the P rejected answers; `label`
    Float[P]; `weights`: the two heads' weight vectors. The idea is that of ODIN (Chen et al. 2024, arXiv
    2402.07319); the cosine makes its penalty independent of the weights' size. Correlations are over all
    answers given, so this is no sum over rows: use it on whole batches and do not split them. It removes what
    is linear in length. If better answers are truly longer, that part of quality goes with it.
    """
    pairs = len(label)
    total = quality + verbosity
    ranking = soft_logistic(total[:pairs] - total[pairs:], label).mean()
    explained = correlation(quality, length).abs() - correlation(verbosity, length)
    cosine = torch.nn.functional.cosine_similarity(*weights, dim=0).abs()
    return ranking + length_weight * explained + orthogonal_weight * cosine
