"""Iterative data smoothing: preference labels that follow the model where data are few."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.errors import UserError


def smoothed_label(label: Tensor, gap: Tensor, *, rate: float) -> Tensor:
    """The labels of the next epoch: y <- (1 - rate) y + rate sigmoid(s_c - s_r). Float[P] -> Float[P].

    Zhu, Jordan, Jiao 2024 (arXiv 2401.16335). Call it after each epoch with the scores of that moment and
    train the next epoch on the result as the soft label. A comparison seen once is not pushed to
    certainty; the fixed point is a label equal to the model's own probability. No gradient flows.
    """
    if not 0.0 <= rate <= 1.0:
        raise UserError(
            f"data smoothing: the rate {rate} is outside [0, 1].", "0 keeps the labels, 1 replaces them."
        )
    return (1 - rate) * label + rate * torch.sigmoid(gap.detach())
