"""The losses by name, and the parts they share: ratio, weights, aggregation, KL, entropy, statistics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.objectives import entropy, kl
from rewardlab.objectives.policy_gradient import covariance, ratio_losses, score_losses
from rewardlab.objectives.policy_gradient.aggregation import Aggregation, token_weights
from rewardlab.objectives.policy_gradient.gvpo import group_pairs, gvpo
from rewardlab.objectives.policy_gradient.tokens import Losses, Tokens
from rewardlab.objectives.reduction import Term, Terms, statistic

LossName = Literal[
    "ppo", "dual_clip", "grpo", "bnpo", "dr_grpo", "dapo", "gspo", "gspo_token", "luspo", "gmpo", "sapo",
    "cispo", "vespo", "dppo_tv", "dppo_kl", "clip_cov", "kl_cov", "reinforce", "gpg", "gvpo",
]  # fmt: skip


NO_OPTIONS: Mapping[str, float] = {}


@dataclass(frozen=True)
class Method:
    """A loss per token, the aggregation its paper uses, and what it needs at fill time."""

    loss: Callable[..., Losses]
    aggregation: Aggregation
    defaults: Mapping[str, float] = field(default_factory=dict)
    select: Callable[..., Tensor] | None = None
    """Picks tokens from a statistic of the whole step."""


METHODS: dict[str, Method] = {
    "ppo": Method(ratio_losses.ppo, "token"),
    "dual_clip": Method(ratio_losses.ppo, "token", {"dual_clip": 3.0}),
    "grpo": Method(ratio_losses.ppo, "sequence", {"clip_high": 0.2}),
    "bnpo": Method(ratio_losses.ppo, "token", {"clip_high": 0.2}),
    "dr_grpo": Method(ratio_losses.ppo, "constant", {"clip_high": 0.2}),
    "dapo": Method(ratio_losses.ppo, "token"),
    "gspo": Method(ratio_losses.gspo, "sequence"),
    "gspo_token": Method(ratio_losses.gspo_token, "sequence"),
    "luspo": Method(ratio_losses.gspo, "sequence_sum"),
    "gmpo": Method(ratio_losses.gmpo, "sequence"),
    "sapo": Method(ratio_losses.sapo, "sequence"),
    "cispo": Method(score_losses.cispo, "token"),
    "vespo": Method(score_losses.vespo, "token"),
    "dppo_tv": Method(score_losses.dppo_tv, "token"),
    "dppo_kl": Method(score_losses.dppo_kl, "token"),
    "clip_cov": Method(covariance.clip_cov, "token", select=covariance.select_in_band),
    "kl_cov": Method(covariance.kl_cov, "token", select=covariance.select_largest),
    "reinforce": Method(score_losses.reinforce, "token"),
    "gpg": Method(score_losses.reinforce, "token"),
}


def options_of(loss: LossName) -> dict[str, float | None]:
    """The knobs of a loss with their defaults, fill-time ones included."""
    if loss == "gvpo":
        return _knobs(gvpo)
    method = METHODS[loss]
    found = _knobs(method.loss) | dict(method.defaults)
    return found | (_knobs(method.select) if method.select else {})


def check_options(loss: LossName, options: Mapping[str, float]) -> None:
    """Refuse a knob that the loss does not have, which would silently do nothing."""
    known = options_of(loss)
    if unknown := sorted(set(options) - set(known)):
        raise UserError(
            f"loss {loss}: it has no option {', '.join(unknown)}.",
            f"Its options are {', '.join(known)}." if known else "It has no options.",
        )


def prepare(
    batch: Batch, loss: LossName, generator: torch.Generator, options: Mapping[str, float] = NO_OPTIONS
) -> Batch:
    """Add what a loss needs from the whole step, before the batch is split.

    clip_cov, kl_cov: the stream `selected`. gvpo: pairs that keep a group together. Others: nothing. Call
    it when `advantage`, `weight` and `logp_sample` (or `logp_old`) are filled.
    """
    check_options(loss, options)
    if loss == "gvpo":
        return replace(batch, pairs=group_pairs(batch.group))
    select = METHODS[loss].select
    if select is None:
        return batch
    used = {k: v for k, v in options.items() if k in _knobs(select)}
    logp = batch.streams.get("logp_old", batch.streams["logp_sample"])
    chosen = select(batch.streams["advantage"], logp, batch.trained, generator, **used)
    return batch.with_streams(selected=chosen.to(logp))


def policy_gradient(
    out: Outputs,
    batch: Batch,
    *,
    loss: LossName = "ppo",
    aggregation: Aggregation | None = None,
    constant_length: int | None = None,
    kl_coefficient: float = 0.0,
    kl_estimator: kl.Estimator = "k3",
    kl_direction: kl.Direction = "reverse",
    kl_importance: bool = True,
    entropy_coefficient: float = 0.0,
    options: Mapping[str, float] = NO_OPTIONS,
) -> Terms:
    """A policy-gradient loss by name, with a KL to the reference and an entropy bonus.

    pg = sum_t w_t importance_t loss_t, w_t by `aggregation` (None: the one of the loss's paper)
    kl_loss = sum_t w_t kl.loss_t, times kl_coefficient;  bonus = -entropy_coefficient * mean entropy

    Streams: `logp_sample`; `advantage`; `weight` (0: not trained, not counted); `logp_old`, the trainer's
    own log-probs at sampling time, if given, is the denominator of the ratio in place of the sampler's;
    `importance`, if given, multiplies pg only: a 0 there masks a token that is still counted, so that
    masking some tokens does not make the others louder; `logp_ref` where kl_coefficient > 0. Reported
    before any cut: `ratio`, `drift` (mean |log-ratio|); `clipped`: the share of tokens that were cut.
    `options` are the loss's own knobs. `gvpo` takes no aggregation and reads rewards, not advantages.
    """
    check_options(loss, options)
    logp, trained = given(out.logp), batch.trained
    old = batch.streams.get("logp_old", batch.streams["logp_sample"])
    raw = torch.where(batch.action, logp - old, torch.zeros_like(logp))
    if loss == "gvpo":
        terms = gvpo(out, batch, **options)
        weight, unit = token_weights(batch, "token", None, logp.dtype)
    else:
        method = METHODS[loss]
        weight, unit = token_weights(batch, aggregation or method.aggregation, constant_length, logp.dtype)
        knobs = _knobs(method.loss)
        used = {k: v for k, v in {**method.defaults, **options}.items() if k in knobs}
        selected = batch.streams.get("selected")
        x = Tokens(
            logp=logp,
            log_ratio=raw,
            advantage=batch.streams["advantage"].to(logp),
            action=batch.action,
            seq=batch.seq,
            size=batch.size,
            selected=None if selected is None else selected > 0,
        )
        found = method.loss(x, **used)
        importance = batch.streams.get("importance")
        scale = weight if importance is None else weight * importance.to(logp)
        terms = {
            "pg": Term((scale * found.loss).sum(), unit),
            "ratio": statistic(torch.where(trained, raw.exp(), torch.zeros_like(raw)).sum(), "token"),
            "clipped": statistic((found.cut & trained).to(logp).sum(), "token"),
            "drift": statistic((raw.abs() * trained).sum(), "token"),
        }
    if kl_coefficient:
        divergence = kl.loss(
            logp,
            batch.streams["logp_ref"],
            kl_estimator,
            direction=kl_direction,
            log_ratio=raw if kl_importance else None,
        )
        terms["kl_loss"] = Term((weight * divergence).sum(), unit, kl_coefficient)
    if out.entropy is not None:
        terms |= entropy.bonus(out, batch, entropy_coefficient)
    return terms


def clipped(
    out: Outputs,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    aggregation: Aggregation = "token",
    kl_coefficient: float = 0.0,
    kl_estimator: kl.Estimator = "k3",
    kl_importance: bool = True,
) -> Terms:
    """PPO's clipped surrogate: `policy_gradient` with the loss `ppo`."""
    return policy_gradient(
        out,
        batch,
        aggregation=aggregation,
        kl_coefficient=kl_coefficient,
        kl_estimator=kl_estimator,
        kl_importance=kl_importance,
        options={"clip_low": clip_low, "clip_high": clip_high},
    )


def _knobs(function: Callable[..., Any]) -> dict[str, float | None]:
    """The keyword-only parameters of a function and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
