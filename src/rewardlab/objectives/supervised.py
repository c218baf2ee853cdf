"""Supervised losses on given tokens."""

from __future__ import annotations

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.objectives.reduction import Term, Terms


def nll(out: Outputs, batch: Batch) -> Terms:
    """Negative log-likelihood per trained token: -sum_t weight_t * log p(ids_t | prefix), unit token.

    Weights act on the sum and not on the count: weight 0.5 everywhere halves the loss.
    """
    return {"nll": Term(-(given(out.logp) * batch.weight).sum(), "token")}
