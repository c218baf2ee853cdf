"""What a policy-gradient loss reads of a micro-batch, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""Log-ratios are cut to +-20 before they are exponentiated, so that a broken sampler gives a finite loss."""


@dataclass(frozen=True)
class Tokens:
    """One micro-batch of whole sequences. T tokens, N sequences."""

    logp: Tensor
    """Float[T]: log pi(t), with gradient; losses of the form -c A log pi take their gradient here."""
    log_ratio: Tensor
    """Float[T]: log pi(t) - log pi_old(t), with gradient and uncut; 0 where not an action."""
    advantage: Tensor
    """Float[T]."""
    action: Tensor
    """Bool[T]: the tokens that make up a sequence's ratio. Weight-0 actions belong to it too."""
    seq: Tensor
    """Long[T]: the sequence that each token belongs to."""
    size: int
    """N."""
    selected: Tensor | None = None
    """Bool[T]: tokens picked by a statistic of the whole step (clip-cov, kl-cov)."""

    @property
    def ratio(self) -> Tensor:
        """Float[T]: pi / pi_old per token, log-ratio cut to +-20."""
        return bounded_exp(self.log_ratio)

    def sum_by_sequence(self, x: Tensor) -> Tensor:
        """Float[T]: the sum of x over the sequence's actions, given to each of its tokens."""
        zeros = torch.zeros(self.size, dtype=x.dtype, device=x.device)
        return zeros.index_add(0, self.seq, x * self.action)[self.seq]

    def mean_by_sequence(self, x: Tensor) -> Tensor:
        """Float[T]: the mean of x over the sequence's actions, given to each of its tokens."""
        count = self.sum_by_sequence(torch.ones_like(x)).clamp(min=1)
        return self.sum_by_sequence(x) / count


@dataclass(frozen=True)
class Losses:
    """Per-token losses before weights and aggregation."""

    loss: Tensor
    """Float[T]."""
    cut: Tensor
    """Bool[T]: tokens whose gradient was removed or whose coefficient was limited."""


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) with x cut to +-20; no gradient outside."""
    return x.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def nothing_cut(x: Tensor) -> Tensor:
    """Bool[T], all false."""
    return torch.zeros_like(x, dtype=torch.bool)
