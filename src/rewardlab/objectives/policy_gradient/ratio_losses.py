"""Losses that are a function of the ratio pi / pi_old: PPO, GSPO, GMPO, SAPO.

Each gives one loss per token; how they are averaged is in `aggregation`. pi_old is the policy that the
ratio is taken against: the sampler itself, or the trainer's own log-probs at sampling time.
"""

from __future__ import annotations

import torch

from rewardlab.core.errors import UserError
from rewardlab.objectives.policy_gradient.tokens import Losses, Tokens, bounded_exp, nothing_cut


def ppo(
    x: Tokens, *, clip_low: float = 0.2, clip_high: float = 0.28, dual_clip: float | None = None
) -> Losses:
    """The clipped surrogate (PPO, Schulman et al. 2017, arXiv 1707.06347).

    loss_t = -min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t), r_t = pi(t) / pi_old(t)
    with `dual_clip` c, where A_t < 0: loss_t = min(loss_t, -c A_t)   (Ye et al. 2019, arXiv 1912.09729)

    `clip_high` > `clip_low` is DAPO's clip-higher (arXiv 2503.14476). `dual_clip` bounds what one unlikely
    token with a negative advantage can do; it must exceed 1 + clip_high. TRL's `delta` (two-sided
    clipping, INTELLECT-2, arXiv 2505.07291) and verl's `clip_ratio_c` are the same function.
    """
    ratio, advantage = x.ratio, x.advantage
    free = ratio * advantage
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss, cut = -torch.minimum(free, bounded), free > bounded
    if dual_clip is not None:
        if dual_clip <= 1 + clip_high:
            raise UserError(
                f"ppo: dual_clip {dual_clip} lies inside the clip range, which ends at {1 + clip_high}.",
                "Use a value above it, such as 3.",
            )
        beyond = (advantage < 0) & (ratio > dual_clip)
        loss, cut = torch.where(beyond, -dual_clip * advantage, loss), cut | beyond
    return Losses(loss, cut)


def gspo(x: Tokens, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Losses:
    """The clipped surrogate on one ratio per sequence (GSPO, Zheng et al. 2025, arXiv 2507.18071).

    s_i = exp(mean over i's actions of log(pi / pi_old));  loss_t = -min(s_i A_t, clip(s_i) A_t)

    The mean is over actions only, so tool output does not dilute the ratio. Meant for the aggregation
    `sequence`; with `sequence_sum` it is LUSPO. Ranges are far smaller than PPO's, since a mean of
    log-ratios varies little. TRL: `importance_sampling_level="sequence"`.
    """
    ratio = bounded_exp(x.mean_by_sequence(x.log_ratio))
    free = ratio * x.advantage
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * x.advantage
    return Losses(-torch.minimum(free, bounded), free > bounded)


def gspo_token(x: Tokens, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Losses:
    """GSPO with each token carrying its own gradient (GSPO-token, arXiv 2507.18071, section 4.3).

    s_it = sg[s_i] pi(t) / sg[pi(t)];  loss_t = -min(s_it A_t, clip(s_it) A_t)

    In value the same as `gspo`; in gradient the same where the advantage is constant over a sequence, and
    the right form where it is not (process rewards, several turns).
    """
    sequence = bounded_exp(x.mean_by_sequence(x.log_ratio)).detach()
    ratio = sequence * (x.logp - x.logp.detach()).exp()
    free = ratio * x.advantage
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * x.advantage
    return Losses(-torch.minimum(free, bounded), free > bounded)


def gmpo(x: Tokens, *, clip_low: float = 0.4, clip_high: float = 0.4) -> Losses:
    """The geometric mean of one-sidedly clipped token ratios (GMPO, Zhao et al. 2025, arXiv 2507.20673).

    d_t = log r_t cut to at most clip_high where A_t > 0, to at least -clip_low where A_t < 0
    loss_t = -A_t exp(mean over the sequence's actions of d_t)

    The range is in log-ratios: 0.4 is the paper's (e^-0.4, e^0.4). A cut token adds to the value and has
    no gradient. Unlike GSPO, which clips the mean, one runaway token cannot silence its sequence. Meant
    for the aggregation `sequence`.
    """
    positive = x.advantage >= 0
    d = torch.where(positive, x.log_ratio.clamp(max=clip_high), x.log_ratio.clamp(min=-clip_low))
    cut = (positive & (x.log_ratio > clip_high)) | (~positive & (x.log_ratio < -clip_low))
    return Losses(-x.advantage * bounded_exp(x.mean_by_sequence(d)), cut)


def sapo(x: Tokens, *, temperature_positive: float = 1.0, temperature_negative: float = 1.05) -> Losses:
    """A soft gate in place of the hard clip (SAPO, Gao et al. 2025, arXiv 2511.20347).

    loss_t = -A_t (4 / tau) sigmoid(tau (r_t - 1)), tau = temperature_positive where A_t > 0, else
    temperature_negative

    At r = 1 the gradient is that of -r A; it fades smoothly on both sides. Meant for the aggregation
    `sequence`. The value at r = 1 is -2 A / tau and not -A: only its gradient has a meaning.
    """
    tau = torch.where(x.advantage > 0, temperature_positive, temperature_negative).to(x.advantage)
    return Losses(-x.advantage * torch.sigmoid(tau * (x.ratio - 1)) * 4 / tau, nothing_cut(x.logp))
