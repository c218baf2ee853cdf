"""Losses are sums with a unit; one reducer divides them by the step's global count.

A term's divisor is the number of trained tokens, trained sequences or pairs of the *whole step*
(`Batch.counts()`), never of the micro-batch at hand, so gradient accumulation, layout and data-parallel
width change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rewardlab.core.batch import Unit


@dataclass(frozen=True)
class Term:
    """A summed loss term or, with coefficient 0, a summed statistic."""

    total: Tensor
    """Scalar: the sum over this micro-batch."""
    unit: Unit
    """What it is a mean over."""
    coefficient: float = 1.0


Terms = dict[str, Term]


def statistic(total: Tensor, unit: Unit) -> Term:
    """A term that is reported and not trained on."""
    return Term(total.detach(), unit, 0.0)


def reduce(terms: Terms, counts: Mapping[Unit, int]) -> Tensor:
    """loss = sum_k coefficient_k * total_k / counts[unit_k]; a count of zero gives zero, not NaN."""
    loss = torch.zeros((), device=next(iter(terms.values())).total.device)
    for term in terms.values():
        if term.coefficient != 0.0:
            loss = loss + term.coefficient * term.total / max(counts[term.unit], 1)
    return loss
