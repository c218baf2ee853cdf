"""Sampler and trainer disagree: measure by how much, and correct for it.

The sampler (another engine, another precision, an older policy) gave token t probability q(t); the
trainer's own policy at sampling time gives it p(t). With r = p / q, samples of q become samples of p if
they are weighed by r. Everything here is made once per step, without gradient, over flat tokens:
Float[T] streams over action tokens, `seq` Long[T], N = `size`. A sampler log-prob that is missing (not
finite) counts as r = 1 and is reported. What is reported is always the raw ratio, before any bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings

Level = Literal["token", "sequence", "geometric"]
Mode = Literal["truncate", "mask"]

EXPONENT_BOUND = 80.0
"""exp(80) = 5.5e34 still fits fp32; only reported means can reach it."""


@dataclass(frozen=True)
class Correction:
    """Weights for the stream `importance`, and what was found."""

    weight: Tensor
    """Float[T]: multiplies the policy loss; 0 masks the token; 1 outside actions."""
    statistics: dict[str, float]


def log_ratios(logp_old: Tensor, logp_sample: Tensor, batch: Batch) -> Tensor:
    """Float[T]: log p(t) - log q(t) at actions; 0 elsewhere and where the sampler's is not finite."""
    known = batch.action & logp_sample.isfinite()
    return torch.where(known, logp_old - logp_sample, torch.zeros_like(logp_old)).detach()


def correct(
    logp_old: Tensor,
    logp_sample: Tensor,
    batch: Batch,
    *,
    level: Level = "token",
    mode: Mode = "truncate",
    low: float | None = None,
    high: float | None = 2.0,
) -> Correction:
    """Importance weights from the log-probs of trainer and sampler.

    token:      r_t
    sequence:   prod over the sequence's actions of r_t, at each of its tokens
    geometric:  the sequence's geometric mean, exp(mean log r_t)
    truncate:   min(max(r, low), high)        mask: r where low <= r <= high, else 0

    token + truncate is TIS (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy
    RL training"); token + mask with low 0.5, high 5 is IcePop (Ling team 2025, arXiv 2510.18855);
    geometric + mask drops whole sequences that drifted, whatever their length (MIS-geometric in verl).
    A geometric mask keeps weight 1 on the rest, since the geometric mean is not an importance weight.
    Truncation biases and keeps everything; masking forgets what it cannot trust. Masked tokens stay in
    the loss's divisor. TRL's `sequence_mask` default is sequence + mask with high 3.
    """
    if low is None and high is None and mode == "truncate":
        raise UserError("mismatch: truncation without a bound changes nothing.", "Set low or high.")
    if low is not None and high is not None and low >= high:
        raise UserError(f"mismatch: low {low} is not below high {high}.", "Swap or widen the bounds.")
    log_ratio = log_ratios(logp_old, logp_sample, batch)
    total = sum_by_sequence(log_ratio, batch)
    lengths = sum_by_sequence(batch.action.to(log_ratio), batch).clamp(min=1)
    if level == "token":
        log_weight = log_ratio
    else:
        log_weight = (total if level == "sequence" else total / lengths)[batch.seq] * batch.action
    weight = log_weight.clamp(max=EXPONENT_BOUND).exp()
    inside = torch.ones_like(batch.action)
    if low is not None:
        inside &= weight >= low
    if high is not None:
        inside &= weight <= high
    if mode == "truncate":
        used = weight.clamp(min=low, max=high)
    else:
        kept = torch.ones_like(weight) if level == "geometric" else weight
        used = torch.where(inside, kept, torch.zeros_like(weight))
    used = torch.where(batch.action, used, torch.ones_like(used))
    touched = (~inside & batch.action).sum() / batch.action.sum().clamp(min=1)
    found = statistics(logp_old, logp_sample, batch) | {"mismatch_touched": float(touched)}
    return Correction(used, found)


def off_policy_keep(
    advantage: Tensor, logp: Tensor, logp_sample: Tensor, batch: Batch, *, threshold: float
) -> Tensor:
    """Drop bad answers that the policy has moved away from (DeepSeek-V3.2, arXiv 2512.02556).

    Float[T]: 0 where A_t < 0 and the sequence's mean of log q - log p exceeds `threshold`, else 1.

    The mean is over the sequence's actions, in nats per token. Good answers are always kept. TRL's
    `off_policy_mask_threshold`. Depends on whole sequences only, so any split into micro-batches agrees.
    """
    drift = -sum_by_sequence(log_ratios(logp, logp_sample, batch), batch)
    lengths = sum_by_sequence(batch.action.to(drift), batch).clamp(min=1)
    far = (drift / lengths)[batch.seq] > threshold
    return torch.where((advantage < 0) & far, 0.0, 1.0).to(logp)


def effective_sample_size(log_weight: Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of importance weights given as logs, in (0, 1]; 1 for equal weights.

    Computed relative to the largest weight, so +-1000 is fine. No weights at all give 0.
    """
    if log_weight.numel() == 0:
        return 0.0
    w = (log_weight.double() - log_weight.double().max()).exp()
    return float(w.sum() ** 2 / (w**2).sum() / w.numel())


def statistics(logp_old: Tensor, logp_sample: Tensor, batch: Batch) -> dict[str, float]:
    """What a run should log about the raw disagreement, whether or not it is corrected.

    mismatch_ratio (mean r; 1 in expectation), mismatch_log_max (largest |log r|), mismatch_abs (mean
    |log r|), mismatch_kl (mean of r - 1 - log r, which estimates KL(q || p) per token), mismatch_ess
    (over tokens), mismatch_ess_sequence, mismatch_missing (actions without a sampler log-prob).
    """
    action = batch.action
    log_ratio = log_ratios(logp_old, logp_sample, batch)
    x = log_ratio[action].double()
    if x.numel() == 0:
        return {}
    bounded = x.clamp(max=EXPONENT_BOUND)
    total = sum_by_sequence(log_ratio, batch)[sum_by_sequence(action.to(log_ratio), batch) > 0]
    return {
        "mismatch_ratio": float(bounded.exp().mean()),
        "mismatch_log_max": float(x.abs().max()),
        "mismatch_abs": float(x.abs().mean()),
        "mismatch_kl": float((torch.expm1(bounded) - x).mean()),
        "mismatch_ess": effective_sample_size(x),
        "mismatch_ess_sequence": effective_sample_size(total),
        "mismatch_missing": float((action & ~logp_sample.isfinite()).sum()),
    }


class MismatchSettings(Settings):
    """How a recipe corrects for a sampler that disagrees with the trainer."""

    level: Level = "token"
    mode: Mode = "truncate"
    low: float | None = None
    high: float | None = 2.0
    off_policy_threshold: float | None = None
    """Also drop answers with a negative advantage that drifted further than this, in nats per token."""

    def apply(self, batch: Batch, logp_old: Tensor) -> tuple[Batch, dict[str, float]]:
        """The batch with `logp_old` and `importance`, and what to log. Needs `advantage`, `logp_sample`.

        From here on the loss's ratio is pi / pi_old, and `importance` carries pi_old / sampler.
        """
        sample = batch.streams["logp_sample"]
        found = correct(
            logp_old, sample, batch, level=self.level, mode=self.mode, low=self.low, high=self.high
        )
        weight, numbers = found.weight, found.statistics
        if self.off_policy_threshold is not None:
            keep = off_policy_keep(
                batch.streams["advantage"], logp_old, sample, batch, threshold=self.off_policy_threshold
            )
            weight = weight * keep
            dropped = (keep == 0) & batch.action
            numbers["mismatch_dropped"] = float(dropped.sum() / batch.action.sum().clamp(min=1))
        return batch.with_streams(logp_old=logp_old, importance=weight), numbers
