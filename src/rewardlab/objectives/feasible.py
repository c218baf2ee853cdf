"""Feasible learning: no average loss is minimised, every example's loss is brought under a bound.

min_theta 0  subject to  l_i(theta) <= tolerance for every example i (Ramirez et al. 2025, arXiv 2501.14912)

One Lagrange multiplier ("dual") per example of the data set, 0 at the start. A step trains on
mean_i dual_i * l_i and then moves the duals of its examples: those above the bound gain weight, those below
lose it until they have none. Mislabelled examples can never be fitted and collect ever more weight, so on
noisy data use `relaxation` and look at the largest duals first: they are the suspects.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.objectives.reduction import Term, Terms, statistic


def sequence_nll(out: Outputs, batch: Batch) -> Tensor:
    """Float[N]: l_i, the mean over sequence i's trained tokens of w_t * -log p_t; 0 where it has none."""
    logp = given(out.logp)
    trained = batch.trained
    loss = torch.where(trained, -logp, torch.zeros_like(logp)) * batch.weight.to(logp)
    return sum_by_sequence(loss, batch) / sum_by_sequence(trained.to(logp), batch).clamp(min=1)


def feasible(out: Outputs, batch: Batch, *, tolerance: float) -> Terms:
    """The Lagrangian in the policy: sum_i dual_i * l_i, unit sequence, l as in `sequence_nll`.

    Reads the stream `dual`, Float[T], the example's multiplier at each of its tokens. It is not a weight: an
    example with dual 0 stays in the divisor. `violations` is the share of sequences above `tolerance`.
    """
    loss = sequence_nll(out, batch)
    tokens = sum_by_sequence(batch.trained.to(loss), batch)
    dual = batch.streams["dual"].to(loss)[batch.offsets[1:] - 1]
    return {
        "feasible": Term((dual * loss).sum(), "sequence"),
        "nll": statistic(loss.sum(), "sequence"),
        "violations": statistic(((loss > tolerance) & (tokens > 0)).to(loss).sum(), "sequence"),
        "dual": statistic((dual * (tokens > 0)).sum(), "sequence"),
    }


def dual_update(
    dual: Tensor, loss: Tensor, *, tolerance: float, rate: float = 1.0, relaxation: float = math.inf
) -> Tensor:
    """Projected gradient ascent on the duals of a step's examples. Float[N], Float[N] -> Float[N].

    dual_i <- max(0, dual_i + rate * (l_i - tolerance - dual_i / relaxation))

    relaxation inf is plain feasible learning, where an example that cannot be fitted gains weight for ever.
    A finite one allows slack at a quadratic cost: the dual settles at relaxation * (l_i - tolerance). The
    step is stable only for rate < 2 * relaxation. Examples whose loss is not finite keep their dual.
    """
    if rate <= 0 or relaxation <= 0 or rate >= 2 * relaxation:
        raise UserError(
            f"dual_update: rate {rate} must lie between 0 and twice the relaxation {relaxation}.",
            "Lower `rate` or raise `relaxation`.",
        )
    loss = loss.detach().to(dual)
    moved = (dual + rate * (loss - tolerance - dual / relaxation)).clamp(min=0)
    return torch.where(torch.isfinite(loss), moved, dual)
