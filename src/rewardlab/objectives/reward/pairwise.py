"""Losses of reward heads on pairs, and what all losses of pairs share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.objectives.reduction import Term, Terms, statistic


def pair_label(batch: Batch, like: Tensor) -> Tensor:
    """Float[P]: probability that `chosen` is better; 1 where the batch gives none."""
    label = batch.pair_streams.get("label")
    return torch.ones_like(like) if label is None else label.to(like)


def pair_weight(batch: Batch, like: Tensor) -> Tensor:
    """Float[P]: weight of each pair in the sum; 1 where the batch gives none."""
    weight = batch.pair_streams.get("weight")
    return torch.ones_like(like) if weight is None else weight.to(like)


def pair_margin(batch: Batch, like: Tensor) -> Tensor:
    """Float[P]: by how much `chosen` must win, in units of reward; 0 where the batch gives none."""
    margin = batch.pair_streams.get("margin")
    return torch.zeros_like(like) if margin is None else margin.to(like)


def soft_logistic(margin: Tensor, label: Tensor) -> Tensor:
    """-label * log sigmoid(margin) - (1 - label) * log sigmoid(-margin), finite for any finite margin."""
    return -label * F.logsigmoid(margin) - (1 - label) * F.logsigmoid(-margin)


def ranked_right(gap: Tensor) -> Tensor:
    """Float[P]: 1 where the gap is positive, 1/2 where it is zero, 0 where it is negative."""
    return (gap > 0).to(gap) + 0.5 * (gap == 0).to(gap)


def bradley_terry(out: Outputs, batch: Batch, *, centring: float = 0.0) -> Terms:
    """Bradley-Terry loss on score differences, with soft labels, margins and centring.

    loss_p = -y log sigmoid(s_c - s_r - m) - (1 - y) log sigmoid(-(s_c - s_r - m)), unit pair
    centring_p = (s_c + s_r)^2, unit pair, times `centring` (Eisenstein et al. 2023, arXiv 2312.09244):
    scores are identified only up to a constant, this pins their mean to zero.

    `m` is the pair's margin where the batch has one (Llama 2, arXiv 2307.09288). Stable for margins of
    +-1000 in fp32. `accuracy` counts ties as one half. TRL's RewardTrainer is the same with hard labels
    (`center_rewards_coefficient` is `centring`).
    """
    scores = given(out.scores)
    chosen, rejected = scores[batch.pairs[:, 0]], scores[batch.pairs[:, 1]]
    gap = chosen - rejected
    weight = pair_weight(batch, gap)
    loss = soft_logistic(gap - pair_margin(batch, gap), pair_label(batch, gap))
    terms: Terms = {
        "bt": Term((weight * loss).sum(), "pair"),
        "accuracy": statistic(ranked_right(gap).sum(), "pair"),
        "margin": statistic(gap.sum(), "pair"),
    }
    if centring:
        terms["centring"] = Term((weight * (chosen + rejected) ** 2).sum(), "pair", centring)
    return terms


def yes_no(out: Outputs, batch: Batch) -> Terms:
    """Generative reward head: the log-odds of answering "Yes" and not "No" at one position.

    score_p = log pi(yes | question p) - log pi(no | question p)
    loss_p = -y log sigmoid(score_p - m) - (1 - y) log sigmoid(-(score_p - m)), unit pair

    A pair is (question + "Yes", question + "No"), alike up to that token, which is their only action; its
    label y is the probability that the answer is yes. The same with the tokens "A" and "B" judges two
    answers side by side. Renormalising over two tokens leaves their total probability free; add the
    `sft` preference loss to keep it up. Papers: generative verifiers (Zhang et al. 2024, arXiv
    2408.15240) train the log-prob of "Yes" alone; RLBFF (arXiv 2509.21319) reads this difference as reward.
    """
    total = sum_by_sequence(given(out.logp) * batch.weight, batch)
    score = total[batch.pairs[:, 0]] - total[batch.pairs[:, 1]]
    label = pair_label(batch, score)
    loss = pair_weight(batch, score) * soft_logistic(score - pair_margin(batch, score), label)
    right = ranked_right(torch.where(label < 0.5, -score, score))
    return {
        "yes_no": Term(loss.sum(), "pair"),
        "accuracy": statistic(right.sum(), "pair"),
        "margin": statistic(score.sum(), "pair"),
    }
