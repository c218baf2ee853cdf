"""The critic's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.objectives.reduction import Term, Terms, statistic


def value_loss(value: Tensor, batch: Batch, *, clip: float | None = 0.2, coefficient: float = 0.5) -> Terms:
    """Squared error of per-token values to their returns, with PPO2's clipping.

    clipped_t = old_t + clamp(v_t - old_t, -clip, clip)
    loss_t = 1/2 max((v_t - R_t)^2, (clipped_t - R_t)^2), mean over trained tokens, times `coefficient`

    `value` Float[T] with gradient: V of the state in which token t is chosen. Streams: `value`, the values
    at sampling time, and `return` (see `advantage.gae`); both read at trained tokens only. `clip` is in
    units of the return; None switches it off and `value` is then not needed. From OpenAI baselines' ppo2
    (Schulman et al. 2017 do not describe it); verl's `cliprange_value`. Where clipping moves the value
    away from the return the gradient stays, where it would move past the range it is 0.

    `value_error` is the mean squared error before clipping.
    """
    weight, trained = batch.weight.to(value), batch.trained
    target = torch.where(trained, batch.streams["return"].to(value), torch.zeros_like(value))
    v = torch.where(trained, value, torch.zeros_like(value))
    error = (v - target) ** 2
    terms: Terms = {}
    worst = error
    if clip is not None:
        old = torch.where(trained, batch.streams["value"].to(value), torch.zeros_like(value))
        bounded = (old + (v - old).clamp(-clip, clip) - target) ** 2
        worst = torch.maximum(error, bounded)
        terms["value_clipped"] = statistic(((bounded > error) & trained).to(value).sum(), "token")
    return terms | {
        "value_loss": Term(0.5 * (weight * worst).sum(), "token", coefficient),
        "value_error": statistic((error * trained).sum(), "token"),
        "value_mean": statistic((v * trained).sum(), "token"),
    }
