"""Losses of reward heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.objectives.reduction import Term, Terms, statistic


def pair_label(batch: Batch, like: Tensor) -> Tensor:
    """Float[P]: probability that `chosen` is better; 1 where the batch gives none."""
    label = batch.pair_streams.get("label")
    return torch.ones_like(like) if label is None else label.to(like)


def pair_weight(batch: Batch, like: Tensor) -> Tensor:
    """Float[P]: weight of each pair in the sum; 1 where the batch gives none."""
    weight = batch.pair_streams.get("weight")
    return torch.ones_like(like) if weight is None else weight.to(like)


def soft_logistic(margin: Tensor, label: Tensor) -> Tensor:
    """-label * log sigmoid(margin) - (1 - label) * log sigmoid(-margin), finite for any finite margin."""
    return -label * F.logsigmoid(margin) - (1 - label) * F.logsigmoid(-margin)


def bradley_terry(out: Outputs, batch: Batch, *, centring: float = 0.0) -> Terms:
    """Bradley-Terry loss on score differences, with soft labels, margins and centring.

    loss_p = -y log sigmoid(s_c - s_r - m) - (1 - y) log sigmoid(-(s_c - s_r - m)), unit pair
    centring_p = (s_c + s_r)^2, unit pair, times `centring` (Eisenstein et al. 2023, arXiv 2312.09244):
    scores are identified only up to a constant, this pins their mean to zero.

    `m` is the pair's margin where the batch has one (Llama 2, arXiv 2307.09288). Stable for margins of
    +-1000 in fp32. `accuracy` counts ties as one half.
    """
    scores = given(out.scores)
    chosen, rejected = scores[batch.pairs[:, 0]], scores[batch.pairs[:, 1]]
    gap = chosen - rejected
    margin = batch.pair_streams.get("margin")
    shifted = gap if margin is None else gap - margin.to(gap)
    weight = pair_weight(batch, gap)
    terms: Terms = {
        "bt": Term((weight * soft_logistic(shifted, pair_label(batch, gap))).sum(), "pair"),
        "accuracy": statistic((gap > 0).float().sum() + 0.5 * (gap == 0).float().sum(), "pair"),
        "margin": statistic(gap.sum(), "pair"),
    }
    if centring:
        terms["centring"] = Term((weight * (chosen + rejected) ** 2).sum(), "pair", centring)
    return terms
