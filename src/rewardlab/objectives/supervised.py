"""Supervised losses on given tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, Unit, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.objectives import kl
from rewardlab.objectives.divergence import Tail, at_actions, divergence, vocabulary_slice
from rewardlab.objectives.policy_gradient.aggregation import Aggregation, token_weights
from rewardlab.objectives.reduction import Term, Terms, statistic

Anchor = Literal["k3", "forward_kl", "reverse_kl"]


def weighted_sum(
    loss: Tensor, batch: Batch, aggregation: Aggregation = "token", constant_length: int | None = None
) -> tuple[Tensor, Unit]:
    """The weighted sum of a per-token loss Float[T] over trained tokens, and its unit.

    `aggregation` (token, sequence, constant, sequence_sum) and `constant_length` as in
    `policy_gradient.aggregation`. Weights act on the sum and never on a count, but a token of weight 0 is
    not counted at all. What stands at other tokens is not read, not even where it is NaN.
    """
    weight, unit = token_weights(batch, aggregation, constant_length, loss.dtype)
    return (torch.where(batch.trained, loss, torch.zeros_like(loss)) * weight).sum(), unit


def nll(
    out: Outputs, batch: Batch, *, aggregation: Aggregation = "token", constant_length: int | None = None
) -> Terms:
    """Negative log-likelihood per trained token: -sum_t weight_t * log p(ids_t | prefix), unit token.

    Weights act on the sum and not on the count: weight 0.5 everywhere halves the loss. `aggregation` and
    `constant_length` as in `weighted_sum`.
    """
    return {"nll": Term(*weighted_sum(-given(out.logp), batch, aggregation, constant_length))}


def label_smoothed(
    out: Outputs,
    batch: Batch,
    *,
    smoothing: float,
    aggregation: Aggregation = "token",
    constant_length: int | None = None,
) -> Terms:
    """NLL against targets mixed with the uniform distribution (Szegedy et al. 2015, arXiv 1512.00567).

    loss_t = -(1 - s) log p(ids_t) - s * (1 / V) sum_v log p(v), 0 <= s < 1

    Reads `Outputs.logp_mean`. The same as `torch.nn.functional.cross_entropy(label_smoothing=s)` and as the
    `label_smoothing_factor` of transformers. `nll` is reported unsmoothed.
    """
    if not 0.0 <= smoothing < 1.0:
        raise UserError(f"smoothing must be at least 0 and less than 1, got {smoothing}.", "Try 0.1.")
    logp = given(out.logp)
    loss = -(1.0 - smoothing) * logp - smoothing * given(out.logp_mean)
    return {
        "smoothed_nll": Term(*weighted_sum(loss, batch, aggregation, constant_length)),
        "nll": statistic(*weighted_sum(-logp, batch, aggregation, constant_length)),
    }


def token_weight(
    logp: Tensor,
    *,
    power: float = 0.0,
    complement: float = 0.0,
    at_least: float = 0.0,
    at_most: float = 1.0,
) -> Tensor:
    """Weight of a token by its own probability, without gradient. Float[T] -> Float[T].

    w = p^power * (1 - p)^complement * 1[at_least <= p <= at_most], p = exp(log p)

    power 1: dynamic fine-tuning, DFT (arXiv 2508.05629). power a: -p^a / a (arXiv 2510.00526). power 1 and
    complement 1: CHORD's phi (arXiv 2508.11408). complement g: focal weighting, detached. A bound on p alone:
    training on sure (`at_least`) or unsure (`at_most`) tokens only. Exponents must not be negative.
    """
    if power < 0 or complement < 0:
        raise UserError(
            f"token_weight: exponents must not be negative, got power {power}, complement {complement}.",
            "A negative one grows without bound as a token's probability goes to 0 or 1.",
        )
    logp = logp.detach()
    p = logp.exp()
    weight = (power * logp).exp() if power else torch.ones_like(logp)
    if complement:
        weight = weight * (-torch.expm1(logp.clamp(max=0.0))) ** complement
    return weight * ((p >= at_least) & (p <= at_most))


def probability_weighted(
    out: Outputs,
    batch: Batch,
    *,
    power: float = 1.0,
    complement: float = 0.0,
    at_least: float = 0.0,
    at_most: float = 1.0,
    detached: bool = True,
    aggregation: Aggregation = "token",
    constant_length: int | None = None,
) -> Terms:
    """NLL with each token weighted by its own probability; DFT is power 1 (arXiv 2508.05629, 2510.00526).

    detached        loss_t = sg(w_t) * (-log p_t), w as in `token_weight`
    not detached    loss_t = 1[at_least <= p_t <= at_most] * (1 - p_t^power) / power, the loss whose gradient
                    the detached form writes out: both have gradient -w_t d log p_t. Only with complement 0.

    power 0 is NLL, power 1 is 1 - p. Differentiating the product p^a * (-log p) through its weight would be
    another loss, that lowers every token with p < exp(-1 / a); it is not offered. Tokens outside the bounds
    stay in the divisor, since a divisor that moved with the policy would differ between micro-batches;
    `kept` is their share. On tokens that the policy hardly knows the gradient vanishes with p^power: plain
    SGD then learns nothing, and Adam hides it by rescaling. `weight` is the mean token weight.
    """
    logp = given(out.logp)
    weight = token_weight(logp, power=power, complement=complement, at_least=at_least, at_most=at_most)
    if detached:
        loss = weight * -logp
    elif complement:
        raise UserError(
            "probability_weighted: there is no closed form with `complement` and `detached: false`.",
            "Set `detached: true`.",
        )
    else:
        inside = token_weight(logp, at_least=at_least, at_most=at_most)
        loss = inside * (-torch.expm1(power * logp) / power if power else -logp)
    kept = token_weight(logp, at_least=at_least, at_most=at_most) * batch.trained
    return {
        "weighted_nll": Term(*weighted_sum(loss, batch, aggregation, constant_length)),
        "nll": statistic(*weighted_sum(-logp, batch, aggregation, constant_length)),
        "weight": statistic((weight * batch.trained).sum(), "token"),
        "kept": statistic(kept.sum(), "token"),
    }


def anchored(
    out: Outputs,
    batch: Batch,
    *,
    coefficient: float,
    anchor: Anchor = "forward_kl",
    power: float = 1.0,
    tail: Tail = "bucket",
    aggregation: Aggregation = "token",
    constant_length: int | None = None,
) -> Terms:
    """Anchored SFT: probability-weighted NLL plus a pull to the reference (ASFT, arXiv 2509.23753).

    loss_t = sg(p_t^power) (-log p_t) + coefficient * D_t

    D is one of: `forward_kl`, KL(ref || pi) over the vocabulary (what the authors' code computes),
    `reverse_kl`, KL(pi || ref); both read `Outputs.slice_logp` and the batch's `slice_logp` (and `slice_ids`,
    `tail`: see `close_slice`). Or `k3`: ref / pi - 1 - log(ref / pi) at the given token only, from the stream
    `logp_ref`. On demonstrations k3 estimates no divergence, since they are not the policy's own samples: it
    is a penalty that is least, and 0, where the token's probability is the reference's.
    power 0 anchors plain NLL.
    """
    terms = probability_weighted(
        out, batch, power=power, aggregation=aggregation, constant_length=constant_length
    )
    if anchor == "k3":
        pull = kl.estimate(given(out.logp), batch.streams["logp_ref"], "k3")
    else:
        pull = at_actions(divergence(*vocabulary_slice(out, batch, tail), anchor), batch)
    terms["anchor"] = Term(*weighted_sum(pull, batch, aggregation, constant_length), coefficient)
    return terms


def minor_sft(out: Outputs, batch: Batch, *, beta: float) -> Terms:
    """SFT that lets go of answers already learned (MinorSFT, Xie et al. 2024, arXiv 2408.10642).

    D_i = sum_t w_t (log pi(t) - log ref(t)) over the m_i trained tokens of sequence i
    loss_i = -(2 / (m_i beta)) log sigmoid(beta D_i), unit sequence

    Its gradient is that of the sequence-normalised NLL times 2 sigmoid(-beta D_i): 1 at the reference, near 0
    once the answer has become much more likely, near 2 where it became less so. Reads the stream `logp_ref`.
    `deviation` is the paper's metric, the mean over sequences of D_i / m_i. beta must be positive.
    """
    if beta <= 0:
        raise UserError(f"minor_sft: beta must be positive, got {beta}.", "The default is 0.04.")
    trained = batch.trained
    change = torch.where(trained, given(out.logp) - batch.streams["logp_ref"], 0.0)
    tokens = sum_by_sequence(trained.to(change), batch)
    moved = sum_by_sequence(change * batch.weight, batch)
    has = tokens > 0
    loss = -2.0 / (tokens.clamp(min=1) * beta) * F.logsigmoid(beta * moved)
    return {
        "minor_sft": Term((loss * has).sum(), "sequence"),
        "deviation": statistic((moved / tokens.clamp(min=1)).sum(), "sequence"),
        "nll": statistic(*weighted_sum(-given(out.logp), batch, "sequence")),
    }


def source_weights(
    batch: Batch, source: Tensor, share: Mapping[int, float], per: Literal["token", "sequence"] = "token"
) -> Tensor:
    """Weights that give every source its share of the loss, however many tokens it has. Float[T].

    w_t = w_t * share[s] * n / n_s for a token of source s, n_s and n the trained tokens (or sequences, for
    losses with another `aggregation`) of the source and of the step. The loss is then
    sum_s share_s * (mean over source s). Call it on the whole step, before it is split; source Long[N].
    Every source needs a share; with share 0 its tokens leave the counts too. A source that is absent from
    the step gives nothing, and the others are not raised for it.
    """
    if missing := set(source.tolist()) - set(share):
        raise UserError(f"source_weights: no share for the sources {sorted(missing)}.", "Give each one.")
    if bad := [s for s, x in share.items() if not (math.isfinite(x) and x >= 0)]:
        raise UserError(f"source_weights: the shares of {bad} are negative or not finite.", "Use 0 or more.")
    weight = batch.weight
    used = batch.trained & torch.tensor([share[s] > 0 for s in source.tolist()])[batch.seq]
    tokens = sum_by_sequence(used.to(torch.float64), batch)
    counted = tokens if per == "token" else (tokens > 0).to(tokens)
    factor = torch.zeros(batch.size, dtype=torch.float64)
    for s, x in share.items():
        mine = source == s
        factor[mine] = x * counted.sum() / counted[mine].sum().clamp(min=1)
    return weight * factor.to(weight)[batch.seq]
