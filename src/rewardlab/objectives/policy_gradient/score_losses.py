"""Losses of the form -c_t A_t log pi(t) with a detached coefficient c_t: REINFORCE, CISPO, VESPO, DPPO.

Their value has no meaning of its own; their gradient is -c_t A_t times the score. No gradient flows
through the ratio.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewardlab.objectives.policy_gradient.tokens import LOG_RATIO_BOUND, Losses, Tokens, nothing_cut


def reinforce(x: Tokens) -> Losses:
    """The plain policy gradient (Williams 1992): loss_t = -A_t log pi(t).

    No ratio and no clip, so it is right only on the policy's own fresh samples, or with an `importance`
    stream. GPG (Chu et al. 2025, arXiv 2504.02546) is this loss with the advantage `gpg`.
    """
    return Losses(-x.advantage * x.logp, nothing_cut(x.logp))


def cispo(x: Tokens, *, ratio_max: float = 5.0, ratio_min: float = 0.0) -> Losses:
    """Clip the importance weight and keep every token's gradient (CISPO, MiniMax-M1, arXiv 2506.13585).

    loss_t = -sg[clip(r_t, ratio_min, ratio_max)] A_t log pi(t)

    Bounds are on the ratio itself. TRL's `epsilon_high` is `ratio_max`; verl's is ratio_max - 1.
    """
    ratio = x.ratio.detach()
    weight = ratio.clamp(ratio_min, ratio_max)
    return Losses(-weight * x.advantage * x.logp, weight != ratio)


def vespo(
    x: Tokens,
    *,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
) -> Losses:
    """A gamma-shaped weight on the whole sequence's ratio (VESPO, Shen et al. 2026, arXiv 2602.10693).

    w_i = prod over i's actions of r_t (not length-normalised);  phi(w) = w^k exp(lambda (1 - w))
    loss_t = -sg[phi(w_i)] A_t log pi(t), (k, lambda) by the sign of A_t

    phi(1) = 1, and it fades to 0 on both sides. log w is cut to [log 1e-8, 20] as in the authors' code.
    The ratio must reach back to the sampler, so it is not combined with an `importance` stream.
    """
    per_token = x.log_ratio.detach().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    log_w = x.sum_by_sequence(per_token).clamp(math.log(1e-8), LOG_RATIO_BOUND)
    positive = x.advantage >= 0
    k = torch.where(positive, k_positive, k_negative).to(log_w)
    rate = torch.where(positive, lambda_positive, lambda_negative).to(log_w)
    phi = (rate + k * log_w - rate * log_w.exp()).exp()
    return Losses(-phi * x.advantage * x.logp, nothing_cut(x.logp))


def dppo_tv(
    x: Tokens, *, divergence_low: float = 0.2, divergence_high: float = 0.2, ratio_max: float = 20.0
) -> Losses:
    """Drop tokens whose probability moved too far (DPPO-Binary-TV, Qi et al. 2026, arXiv 2602.04879).

    kept_t: pi(t) - pi_old(t) <= divergence_high where A_t > 0, >= -divergence_low where A_t < 0
    loss_t = -sg[kept_t min(r_t, ratio_max)] A_t log pi(t)

    A ratio of 3 on a token of probability 0.001 is a small change and passes; a ratio of 1.3 on one of
    probability 0.7 is a large one and does not. Divergences are differences of probability in [0, 1].
    """
    new, old = _probabilities(x)
    change = new - old
    kept = torch.where(x.advantage > 0, change <= divergence_high, change >= -divergence_low)
    return _masked(x, kept, ratio_max)


def dppo_kl(
    x: Tokens, *, divergence_low: float = 0.05, divergence_high: float = 0.05, ratio_max: float = 20.0
) -> Losses:
    """Like `dppo_tv` with the KL of the two-outcome distribution (this token or any other), in nats.

    b_t = p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p))
    kept_t: b_t <= divergence_high or p <= p_old where A_t > 0; b_t <= divergence_low or p >= p_old else
    """
    new, old = _probabilities(x)
    rest_new, rest_old = (1 - new).clamp(min=1e-8), (1 - old).clamp(min=1e-8)
    divergence = -old * x.log_ratio.detach() + (1 - old) * (rest_old.log() - rest_new.log())
    up = (divergence <= divergence_high) | (new <= old)
    down = (divergence <= divergence_low) | (new >= old)
    return _masked(x, torch.where(x.advantage > 0, up, down), ratio_max)


def _probabilities(x: Tokens) -> tuple[Tensor, Tensor]:
    """pi(t) and pi_old(t)."""
    logp = x.logp.detach()
    return logp.exp().clamp(max=1), (logp - x.log_ratio.detach()).exp().clamp(max=1)


def _masked(x: Tokens, kept: Tensor, ratio_max: float) -> Losses:
    weight = x.ratio.detach().clamp(max=ratio_max) * kept
    return Losses(-weight * x.advantage * x.logp, ~kept)
