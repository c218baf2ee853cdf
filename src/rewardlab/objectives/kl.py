"""Divergence from the reference, estimated on the policy's own tokens.

With d = log pi(t) - log ref(t) on t ~ pi (Schulman 2020, "Approximating KL divergence"):
  k1 = d                      unbiased for KL(pi || ref), high variance
  k2 = d^2 / 2                biased value; its gradient is that of KL(pi || ref)
  k3 = exp(-d) - 1 + d        unbiased value, non-negative; its gradient is that of KL(ref || pi)

Where it stands matters. In the reward any of them is a constant to the gradient. In the loss, k1 has
zero expected gradient and is refused; plain k3 pulls along the forward KL; k3 times the importance ratio
pi / pi_sample has the reverse KL's gradient. All are per token, shape [T], for action tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.errors import UserError

Estimator = Literal["k1", "k2", "k3"]
Placement = Literal["reward", "loss"]


def check(estimator: Estimator, placement: Placement) -> None:
    """Refuse the combination that silently trains nothing."""
    if estimator == "k1" and placement == "loss":
        raise UserError(
            "kl: the estimator k1 in the loss has zero expected gradient, so it would do nothing.",
            "Use k2 or k3 in the loss, or placement: reward with k1.",
        )


def estimate(logp: Tensor, logp_ref: Tensor, estimator: Estimator) -> Tensor:
    """The chosen estimator of KL(pi || ref) per token; see the module's docstring."""
    d = logp - logp_ref
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d**2
    return torch.expm1(-d) + d
