"""Losses of reward heads on single answers: regression, outcome, process, ordinal.

The target of an answer is `batch.reward` Float[N]. An answer without a trained token counts for nothing,
here as in the divisor; an answer's weight is the mean weight of its trained tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.objectives.reduction import Term, Terms, statistic
from rewardlab.objectives.reward.pairwise import soft_logistic


def sequence_weight(batch: Batch, like: Tensor) -> Tensor:
    """Float[N]: the mean weight over each sequence's trained tokens; 0 where it has none."""
    trained = sum_by_sequence(batch.trained.to(like), batch)
    return sum_by_sequence(batch.weight.to(like), batch) / trained.clamp(min=1)


def regression(out: Outputs, batch: Batch) -> Terms:
    """Squared error against rubric scores: sum_i w_i (s_i - target_i)^2, unit sequence.

    HelpSteer2 (arXiv 2406.08673) trains its reward models so. `error` is the mean absolute error.
    """
    scores, target, weight = _read(out, batch)
    used = (weight != 0).to(scores)
    return {
        "mse": Term((weight * (scores - target) ** 2).sum(), "sequence"),
        "error": statistic((used * (scores - target).abs()).sum(), "sequence"),
    }


def outcome(out: Outputs, batch: Batch) -> Terms:
    """Right or wrong: -y_i log sigmoid(s_i) - (1 - y_i) log sigmoid(-s_i), unit sequence.

    y is a probability in [0, 1]. The outcome reward model of Cobbe et al. 2021 (arXiv 2110.14168) puts
    this loss on every token; here it stands on the last one. `accuracy` counts s = 0 as one half.
    """
    scores, target, weight = _read(out, batch)
    _refuse_outside(target, "outcome")
    right = _agrees(scores, target) * (weight != 0)
    return {
        "outcome": Term((weight * soft_logistic(scores, target)).sum(), "sequence"),
        "accuracy": statistic(right.sum(), "sequence"),
    }


def process(token_scores: Tensor, batch: Batch) -> Terms:
    """Right or wrong at every step: the same cross-entropy at the tokens that end a step, unit token.

    loss_t = w_t [-y_t log sigmoid(s_t) - (1 - y_t) log sigmoid(-s_t)]

    Lightman et al. 2023 (arXiv 2305.20050). `token_scores` Float[T] is a head's value at every token; the
    stream `step_label` Float[T] holds y in [0, 1]; the stream `weight` is not 0 exactly at the last
    token of each labelled step, so the mean is over steps. Labels elsewhere are not read.
    """
    label, weight = batch.streams["step_label"].to(token_scores), batch.weight.to(token_scores)
    label = torch.where(batch.trained, label, torch.zeros_like(label))
    _refuse_outside(label, "process")
    right = _agrees(token_scores, label) * batch.trained
    return {
        "process": Term((weight * soft_logistic(token_scores, label)).sum(), "token"),
        "accuracy": statistic(right.sum(), "token"),
    }


def ordinal(out: Outputs, batch: Batch, *, cutpoints: Tensor) -> Terms:
    """Cumulative-link loss for ratings in K ordered levels (McCullagh 1980), unit sequence.

    P(level <= k) = sigmoid(b_k - s), b_0 < b_1 < ... < b_{K-2}
    loss_i = -log [sigmoid(b_y - s_i) - sigmoid(b_{y-1} - s_i)], with b_{-1} = -inf and b_{K-1} = +inf

    `cutpoints` Float[K-1] are the b, strictly increasing (see `ordered`); learn them beside the head.
    `batch.reward` holds the level, a whole number from 0 to K - 1. Unlike regression it does not assume
    that the step from 1 to 2 stars is as large as the one from 4 to 5. Finite for scores of +-1000.
    """
    scores, level, weight = _read(out, batch)
    top = cutpoints.numel()
    if bool(((level != level.round()) | (level < 0) | (level > top)).any()):
        raise UserError(
            f"ordinal: a rating is not a whole number from 0 to {top}.", "Map the ratings to levels first."
        )
    if bool((cutpoints[1:] <= cutpoints[:-1]).any()):
        raise UserError("ordinal: cutpoints must increase.", "Build them with `ordered`.")
    k = level.long()
    upper = cutpoints[k.clamp(max=top - 1)] - scores
    lower = cutpoints[(k - 1).clamp(min=0)] - scores
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which stays exact in the tails.
    zero = torch.zeros_like(scores)
    inner = (k > 0) & (k < top)
    width = torch.where(inner, upper - lower, torch.ones_like(scores))
    loss = torch.where(k < top, -F.logsigmoid(upper), zero)
    loss = loss + torch.where(k > 0, -F.logsigmoid(-lower), zero)
    loss = loss - torch.where(inner, torch.log(-torch.expm1(-width)), zero)
    predicted = (scores[:, None] > cutpoints).sum(1)
    return {
        "ordinal": Term((weight * loss).sum(), "sequence"),
        "accuracy": statistic(((predicted == k) & (weight != 0)).to(scores).sum(), "sequence"),
    }


def ordered(raw: Tensor) -> Tensor:
    """Strictly increasing cutpoints from free parameters: b_0 = raw_0, b_k = b_{k-1} + softplus(raw_k)."""
    return torch.cat([raw[:1], F.softplus(raw[1:])]).cumsum(0)


def _read(out: Outputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets and weights, Float[N] each; the target of an answer that does not count is 0."""
    scores = given(out.scores)
    weight = sequence_weight(batch, scores)
    target = torch.where(weight != 0, given(batch.reward).to(scores), torch.zeros_like(scores))
    return scores, target, weight


def _agrees(score: Tensor, label: Tensor) -> Tensor:
    """1 where the score's sign is the label's side of 1/2; one half where either is undecided."""
    side = torch.sign(score) * torch.sign(label - 0.5)
    return (side + 1) / 2


def _refuse_outside(label: Tensor, name: str) -> None:
    if bool(((label < 0) | (label > 1)).any()):
        raise UserError(f"{name}: a label is outside [0, 1].", "Labels are probabilities; rescale them.")
