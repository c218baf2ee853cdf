"""GVPO: regress the group's implicit rewards on its rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.objectives.policy_gradient.tokens import LOG_RATIO_BOUND
from rewardlab.objectives.reduction import Term, Terms, statistic


def group_pairs(group: Tensor) -> Tensor:
    """Long[P, 2]: neighbours within each group, which keep a group in one micro-batch.

    The engine never parts a pair, and a batch refuses to be cut through one.
    """
    _, number = group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    order = number.argsort(stable=True)
    same = number[order][1:] == number[order][:-1]
    return torch.stack([order[:-1][same], order[1:][same]], dim=1)


def gvpo(out: Outputs, batch: Batch, *, beta: float = 0.1) -> Terms:
    """Group variance policy optimisation (Zhang et al. 2025, arXiv 2504.19599).

    D_i = sum over i's actions of log pi - log pi_old;  e_i = beta (D_i - mean D) - (r_i - mean r)
    loss = 1 / (2 (k - 1)) sum_i e_i^2 per group of k, a mean over groups weighed by their size

    Its only minimiser is pi_old exp(r / beta) / Z, whatever distribution with full support the answers
    were drawn from, so it needs no importance weights. No clip, no std. Gradient:
    -beta / (k - 1) sum_i w_i grad log pi(y_i), w_i = (r_i - mean r) - beta (D_i - mean D).

    Reads batch.reward and `logp_old` or `logp_sample`; needs whole groups, tied by `group_pairs`. Sequences
    without a trained token are in no statistic. Groups of one and equal rewards at pi = pi_old give 0. A
    token's log-ratio is cut to +-20. Unit: sequence.
    """
    logp, trained = given(out.logp), batch.trained
    _, number = batch.group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    groups = int(number.max()) + 1
    if batch.reward is None:
        raise ValueError("gvpo reads batch.reward")
    if batch.pairs.shape[0] != batch.size - groups:
        raise UserError(
            "gvpo: a micro-batch may hold only a part of a group, so the group's mean would be wrong.",
            "Call `prepare` on the step's batch, which keeps groups together.",
        )
    old = batch.streams.get("logp_old", batch.streams["logp_sample"])
    change = torch.where(trained, logp - old, torch.zeros_like(logp))
    drift = sum_by_sequence(change.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND), batch)  # [N]
    valid = (sum_by_sequence(trained.to(logp), batch) > 0).to(logp)
    reward = batch.reward.to(logp)

    def per_group(x: Tensor) -> Tensor:
        return torch.zeros(groups, dtype=logp.dtype, device=logp.device).index_add(0, number, x)

    size = per_group(valid)

    def centred(x: Tensor) -> Tensor:
        mean = per_group(x * valid) / size.clamp(min=1)
        return (x - mean[number]) * valid

    error = beta * centred(drift) - centred(reward)
    scale = (size / (2 * (size - 1).clamp(min=1)))[number]
    return {
        "pg": Term((scale * error**2).sum(), "sequence"),
        "implicit_reward": statistic((beta * drift * valid).sum(), "sequence"),
        "drift": statistic(change.abs().sum(), "token"),
    }
