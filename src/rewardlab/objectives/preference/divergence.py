"""The score of an answer when the policy is held to the reference by another f-divergence."""

from __future__ import annotations

from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

LARGEST_EXPONENT = 30.0


def divergence_score(log_ratio: Tensor, divergence: Divergence, *, alpha: float = 0.5) -> Tensor:
    """f'(u) up to a constant, u = exp(log_ratio) (f-DPO, Wang et al. 2023, arXiv 2309.16240).

    reverse_kl: log u        forward_kl: 1 - 1 / u        js: log(2u / (1 + u))
    alpha: (1 - u^-alpha) / alpha, between reverse KL (alpha -> 0) and forward KL (alpha = 1)

    The optimal policy has beta f'(pi / ref) = reward + a constant of the prompt, which cancels in the
    difference of two answers and nowhere else. All are 0 at the reference, with slope 1 in log u, or
    1/2 for js. The powers of 1 / u go on along their tangent once the exponent passes 30, so that they
    stay finite and keep a slope. TRL: `f_divergence_type`; its alpha coefficient is 1 - our alpha.
    """
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "forward_kl":
        return 1 - _exp(-log_ratio)
    if divergence == "js":
        return log(2) + F.logsigmoid(log_ratio)
    return (1 - _exp(-alpha * log_ratio)) / alpha


def _exp(x: Tensor) -> Tensor:
    return torch.exp(x.clamp(max=LARGEST_EXPONENT)) * (1 + torch.relu(x - LARGEST_EXPONENT))
