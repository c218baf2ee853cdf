"""Losses are sums with a unit; one reducer divides them by the step's global count.

A term's divisor is the number of trained tokens, trained sequences or pairs of the *whole step*
(`Batch.counts()`), never of the micro-batch at hand, so gradient accumulation, layout and data-parallel
width change nothing. Where supervised and sampled rows share a batch, a term may be the mean over one part
of the step's rows: `over`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewardlab.core.batch import Divisor, Unit


@dataclass(frozen=True)
class Term:
    """A summed loss term or, with coefficient 0, a summed statistic."""

    total: Tensor
    """Scalar: the sum over this micro-batch."""
    unit: Unit
    """What it is a mean over."""
    coefficient: float = 1.0
    of: str | None = None
    """The weight stream whose trained tokens or sequences it is a mean over; None: `weight`, the step's."""

    @property
    def divisor(self) -> Divisor:
        """Its count's name in `Batch.counts()`."""
        return self.unit if self.of is None else (self.unit, self.of)

    def mean(self, counts: Mapping[Divisor, int]) -> Tensor:
        """Scalar: this micro-batch's part of the mean; a count of zero gives zero, not NaN."""
        return self.total / max(counts[self.divisor], 1)


Terms = dict[str, Term]


def statistic(total: Tensor, unit: Unit) -> Term:
    """A term that is reported and not trained on."""
    return Term(total.detach(), unit, 0.0)


def over(terms: Terms, stream: str) -> Terms:
    """The same sums as means over the tokens or sequences that a stream `weight_<part>` trains.

    Of a step with 90 sampled tokens and 10 of demonstrations, an NLL read from the demonstrations alone is
    divided by 10 and not by 100. There is no such count of pairs.
    """
    return {name: replace(term, of=stream) for name, term in terms.items()}


def reduce(terms: Terms, counts: Mapping[Divisor, int]) -> Tensor:
    """loss = sum_k coefficient_k * total_k / counts[divisor_k]; a count of zero gives zero, not NaN."""
    loss = torch.zeros((), device=next(iter(terms.values())).total.device)
    for term in terms.values():
        if term.coefficient != 0.0:
            loss = loss + term.coefficient * term.mean(counts)
    return loss
