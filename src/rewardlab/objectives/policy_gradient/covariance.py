"""Clip-Cov and KL-Cov: hold back the tokens that cost most entropy (Cui et al. 2025, arXiv 2505.22617).

Entropy falls by the covariance of log-prob and advantage, and a few tokens carry most of it:
  cov_t = (A_t - mean A)(log pi_t - mean log pi), means over the trained tokens of the step

The choice of tokens is a statistic of the whole step, so it is made once, when the batch is filled, from
the log-probs that the tokens were sampled with, and travels as the stream `selected`: splitting the
batch afterwards changes nothing. verl chooses anew in every micro-batch from the current log-probs, so
its choice depends on the micro-batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.objectives.policy_gradient.ratio_losses import ppo
from rewardlab.objectives.policy_gradient.tokens import Losses, Tokens


def covariance(advantage: Tensor, logp: Tensor, trained: Tensor) -> Tensor:
    """Float[T]: each trained token's share of the covariance of advantage and log-prob; 0 elsewhere."""
    count = trained.sum().clamp(min=1)
    a = advantage - (advantage * trained).sum() / count
    b = logp - (logp * trained).sum() / count
    return a * b * trained


def select_in_band(
    advantage: Tensor,
    logp: Tensor,
    trained: Tensor,
    generator: torch.Generator,
    *,
    share: float = 2e-4,
    band_low: float = 1.0,
    band_high: float = 5.0,
) -> Tensor:
    """Bool[T]: a random `share` of all trained tokens, drawn from those with covariance in the band.

    At least one token where the band holds any; all of them where it holds fewer than the share.
    """
    cov = covariance(advantage, logp, trained)
    candidates = ((cov > band_low) & (cov < band_high) & trained).nonzero().squeeze(-1)
    wanted = max(1, int(share * int(trained.sum())))
    order = torch.randperm(len(candidates), generator=generator)[:wanted]
    selected = torch.zeros_like(trained)
    selected[candidates[order]] = True
    return selected


def select_largest(
    advantage: Tensor, logp: Tensor, trained: Tensor, generator: torch.Generator, *, share: float = 2e-4
) -> Tensor:
    """Bool[T]: the `share` of trained tokens with the largest covariance, at least one; ties by position."""
    cov = covariance(advantage, logp, trained).masked_fill(~trained, -torch.inf)
    total = int(trained.sum())
    wanted = min(total, max(1, int(share * total)))
    selected = torch.zeros_like(trained)
    selected[cov.argsort(descending=True, stable=True)[:wanted]] = True
    return selected


def clip_cov(x: Tokens, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Losses:
    """PPO's loss, and exactly 0 at the selected tokens."""
    chosen = _selected(x)
    base = ppo(x, clip_low=clip_low, clip_high=clip_high)
    return Losses(torch.where(chosen, torch.zeros_like(base.loss), base.loss), base.cut | chosen)


def kl_cov(x: Tokens, *, penalty: float = 1.0) -> Losses:
    """The unclipped surrogate -r_t A_t, plus penalty * |log r_t| at the selected tokens."""
    chosen = _selected(x)
    return Losses(-x.ratio * x.advantage + penalty * x.log_ratio.abs() * chosen, chosen)


def _selected(x: Tokens) -> Tensor:
    if x.selected is None:
        raise UserError(
            "clip_cov and kl_cov: the batch has no stream `selected`.",
            "Call `prepare` on the whole step's batch before it is split.",
        )
    return x.selected
