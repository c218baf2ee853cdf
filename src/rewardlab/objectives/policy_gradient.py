"""Policy-gradient losses on the policy's own samples."""

from __future__ import annotations

from typing import Literal

import torch

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.objectives import kl
from rewardlab.objectives.reduction import Term, Terms, statistic

Aggregation = Literal["token", "sequence"]


def clipped(
    out: Outputs,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    aggregation: Aggregation = "token",
    kl_coefficient: float = 0.0,
    kl_estimator: kl.Estimator = "k3",
    kl_importance: bool = True,
) -> Terms:
    """PPO's clipped surrogate (arXiv 1707.06347) as GRPO uses it, with the KL to a reference in the loss.

    ratio_t = exp(log pi(t) - logp_sample_t)
    pg = -sum_t w_t min(ratio_t A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) A_t)
    kl = sum_t w_t [ratio_t *] k(log pi(t) - logp_ref_t), the ratio where `kl_importance`

    `aggregation` token: mean over all trained tokens of the step (DAPO, arXiv 2503.14476); sequence: mean
    within each sequence, then over sequences (GRPO). A larger `clip_high` is DAPO's clip-higher. Streams:
    logp_sample, advantage, weight; logp_ref where kl_coefficient > 0. Log-ratios beyond +-20 are cut, so
    that a broken sampler gives a finite loss; `ratio` and `clipped` are reported before any cut.
    """
    logp, weight = given(out.logp), batch.weight
    advantage, logp_sample = batch.streams["advantage"], batch.streams["logp_sample"]
    raw = (logp - logp_sample) * batch.action
    ratio = raw.clamp(-20.0, 20.0).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    pg = -torch.minimum(ratio * advantage, bounded * advantage)
    if aggregation == "sequence":
        tokens = sum_by_sequence(batch.trained.float(), batch).clamp(min=1)
        weight = weight / tokens[batch.seq]
    unit = aggregation
    outside = ((ratio * advantage) > (bounded * advantage)) & batch.trained
    terms: Terms = {
        "pg": Term((weight * pg).sum(), unit),
        "ratio": statistic((raw.exp() * batch.trained).sum(), "token"),
        "clipped": statistic(outside.float().sum(), "token"),
        "drift": statistic((raw.abs() * batch.trained).sum(), "token"),
    }
    if kl_coefficient:
        kl.check(kl_estimator, "loss")
        divergence = kl.estimate(logp, batch.streams["logp_ref"], kl_estimator)
        if kl_importance:
            divergence = divergence * ratio
        terms["kl_loss"] = Term((weight * divergence).sum(), unit, kl_coefficient)
    if out.entropy is not None:
        terms["entropy"] = statistic((out.entropy * batch.trained).sum(), "token")
    return terms
