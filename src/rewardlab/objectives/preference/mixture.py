"""Any preference loss, or a weighted sum of several, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.objectives.preference import losses
from rewardlab.objectives.preference.deviation import deviation_weight
from rewardlab.objectives.preference.divergence import divergence_score
from rewardlab.objectives.preference.likelihood import likelihood_weight
from rewardlab.objectives.preference.matching import matched_gap
from rewardlab.objectives.preference.scores import Scores, pair_sums
from rewardlab.objectives.preference.settings import LossName, PreferenceSettings
from rewardlab.objectives.preference.token_kl import forward_kl, held_back
from rewardlab.objectives.reduction import Term, Terms, statistic
from rewardlab.objectives.reward import pair_label, pair_weight
from rewardlab.objectives.reward.pairwise import pair_margin, ranked_right

Knobs = PreferenceSettings


def preference(out: Outputs, batch: Batch, *, bco_delta: float = 0.0, **knobs: Any) -> Terms:
    """sum_k weight_k loss_k over the losses named by `loss` (MPO, arXiv 2411.10442), unit pair.

    `loss` is one name, or names with weights; it, `beta` and every other knob are the fields of
    `PreferenceSettings`, with its defaults and checks, given as plain keywords.

    Each loss of `losses.py` is a term of its own name, multiplied by the pair's weight (pair stream
    `weight`, times WPO's and the deviation's weight where those knobs are on). Soft labels come from the
    pair stream `label`, margins in units of reward from `margin`. Streams: `logp_ref`, which simpo, cpo,
    orpo and sft do without; `log_collision` for WPO (see `likelihood_weight`); tdpo reads distributions over
    the vocabulary as `tdpo` does, and reports `chosen_kl` and `rejected_kl`. aot and aot_unpaired need
    `match` on the whole step first; every other loss is a sum over pairs.

    Statistics: `accuracy` (ties count one half); `margin`, beta times the gap; `chosen_logp` and
    `rejected_logp`, changes from the reference, or plain log-probs where there is none. Both falling is
    the known displacement of DPO and not a bug of the run; an `sft` term holds the chosen one up.
    """
    settings = Knobs(**knobs)
    s = scores(out, batch, settings)
    terms: Terms = {}
    for name, coefficient in settings.loss.items():
        if name == "aot":
            gap = matched_gap(given(out.logp), batch, tail=settings.tail) - s.margin / settings.beta
            loss = losses.sigmoid(gap, s.smoothed, beta=settings.beta)
        elif name == "tdpo":
            of_chosen, of_rejected = pair_sums(forward_kl(out, batch), batch).unbind(1)
            held = held_back(of_chosen, of_rejected, alpha=settings.tdpo_alpha, variant=settings.tdpo_variant)
            loss = losses.sigmoid(s.gap(settings.beta) - held, s.smoothed, beta=settings.beta)
            terms["chosen_kl"] = statistic(of_chosen.sum(), "pair")
            terms["rejected_kl"] = statistic(of_rejected.sum(), "pair")
        else:
            loss = LOSSES[name](s, settings, bco_delta)
        terms[name] = Term((s.weight * loss).sum(), "pair", coefficient)
    shown = s.logp if s.change is None else s.change
    per_token = shown / s.length if set(settings.loss) <= PER_TOKEN else shown
    gap = per_token[:, 0] - per_token[:, 1]
    return terms | {
        "accuracy": statistic(ranked_right(gap).sum(), "pair"),
        "margin": statistic(settings.beta * gap.sum(), "pair"),
        "chosen_logp": statistic(shown[:, 0].sum(), "pair"),
        "rejected_logp": statistic(shown[:, 1].sum(), "pair"),
    }


def dpo(out: Outputs, batch: Batch, *, beta: float, label_smoothing: float = 0.0) -> Terms:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): `preference` with sigmoid.

    h_p = [log pi(c) - log ref(c)] - [log pi(r) - log ref(r)], log-probs summed over action tokens
    loss_p = -y log sigmoid(beta h_p) - (1 - y) log sigmoid(-beta h_p), unit pair

    y is the pair's soft label, pulled to 1 - y by `label_smoothing` (conservative DPO). The term is called
    `dpo`.
    """
    terms = preference(out, batch, beta=beta, label_smoothing=label_smoothing)
    return {"dpo" if name == "sigmoid" else name: term for name, term in terms.items()}


def running_delta(
    previous: float, logp: Tensor, batch: Batch, *, beta: float, momentum: float, tail: float = 1.0
) -> float:
    """BCO's delta: a running mean of the rewards of both classes, updated with a whole step.

    delta <- momentum * delta + (1 - momentum) beta (mean change of chosen + mean change of rejected) / 2

    `logp` Float[T] are the policy's log-probs of the whole step's batch, which has pairs and `logp_ref`.
    No gradient.
    """
    change = pair_sums(logp.detach() - batch.streams["logp_ref"].to(logp), batch, tail=tail)
    return momentum * previous + (1 - momentum) * beta * float(change.mean())


def scores(out: Outputs, batch: Batch, settings: Knobs) -> Scores:
    """What the losses read."""
    logp = given(out.logp)
    sums = pair_sums(logp, batch)
    reference = batch.streams.get("logp_ref")
    change = None
    if reference is not None:
        change = pair_sums(logp - reference.to(logp), batch, tail=settings.tail)
    score = None
    if change is not None:
        score = divergence_score(change, settings.divergence, alpha=settings.divergence_alpha)
    length = sum_by_sequence(batch.weight.to(logp), batch)
    label, e = pair_label(batch, sums[:, 0]), settings.label_smoothing
    return Scores(
        logp=sums,
        change=change,
        score=score,
        length=torch.where(length == 0, torch.ones_like(length), length)[batch.pairs],
        label=label,
        smoothed=label * (1 - e) + (1 - label) * e,
        weight=_weight(out, batch, settings, sums[:, 0]),
        margin=pair_margin(batch, sums[:, 0]),
    )


def _weight(out: Outputs, batch: Batch, settings: Knobs, like: Tensor) -> Tensor:
    weight = pair_weight(batch, like)
    if settings.likelihood_weighting:
        weight = weight * likelihood_weight(out, batch)
    if settings.deviation_floor is not None:
        if "deviation" not in batch.pair_streams:
            raise UserError(
                "preference: deviation_floor is set, but the pairs have no `deviation`.",
                "Give each pair the deviation of its chosen answer, or leave deviation_floor out.",
            )
        found = batch.pair_streams["deviation"].to(like)
        weight = weight * deviation_weight(found, floor=settings.deviation_floor)
    return weight


def _nll(s: Scores, k: Knobs) -> Tensor:
    """-log pi of the better answer, per token where `nll_average`: y nll(c) + (1 - y) nll(r).

    The anchor of RPO (Pang et al. 2024, arXiv 2404.19733). It follows the rows' own label and
    not the smoothed one, which would imitate rejected answers.
    """
    nll = -s.logp / s.length if k.nll_average else -s.logp
    return s.label * nll[:, 0] + (1 - s.label) * nll[:, 1]


def _simpo(s: Scores, k: Knobs, delta: float) -> Tensor:
    mean = s.logp / s.length
    gap = mean[:, 0] - mean[:, 1] - s.margin / k.beta
    return losses.simpo(gap, s.smoothed, beta=k.beta, gamma=k.simpo_gamma)


def _cpo(s: Scores, k: Knobs, delta: float) -> Tensor:
    """CPO (Xu et al. 2024, arXiv 2401.08417): DPO with a flat reference, and the anchor."""
    gap = s.logp[:, 0] - s.logp[:, 1] - s.margin / k.beta
    return losses.sigmoid(gap, s.smoothed, beta=k.beta) + k.nll_weight * _nll(s, k)


def _orpo(s: Scores, k: Knobs, delta: float) -> Tensor:
    """ORPO: the anchor, and beta times the odds-ratio term."""
    mean = s.logp / s.length
    odds = losses.odds_ratio(mean[:, 0], mean[:, 1], s.smoothed, s.margin)
    return k.nll_weight * _nll(s, k) + k.beta * odds


LOSSES: Mapping[LossName, Callable[[Scores, Knobs, float], Tensor]] = {
    "sigmoid": lambda s, k, d: losses.sigmoid(s.gap(k.beta), s.smoothed, beta=k.beta),
    "sigmoid_norm": lambda s, k, d: losses.sigmoid(s.gap(k.beta, per_token=True), s.smoothed, beta=k.beta),
    "robust": lambda s, k, d: losses.robust(s.gap(k.beta), s.smoothed, beta=k.beta, flip_rate=k.flip_rate),
    "hinge": lambda s, k, d: losses.hinge(s.gap(k.beta), s.smoothed, beta=k.beta),
    "ipo": lambda s, k, d: losses.ipo(s.gap(k.beta, per_token=k.ipo_average), s.smoothed, beta=k.beta),
    "exo_pair": lambda s, k, d: losses.exo_pair(
        s.gap(k.beta), s.smoothed, beta=k.beta, epsilon=k.exo_epsilon
    ),
    "discopop": lambda s, k, d: losses.discopop(s.gap(k.beta), s.smoothed, beta=k.beta, tau=k.discopop_tau),
    "nca_pair": lambda s, k, d: losses.nca_pair(*s.answers(k.beta), s.smoothed, beta=k.beta),
    "bco_pair": lambda s, k, d: losses.bco_pair(*s.answers(k.beta), s.smoothed, beta=k.beta, delta=d),
    "sppo_hard": lambda s, k, d: losses.sppo_hard(*s.answers(k.beta), s.smoothed, beta=k.beta),
    "apo_zero": lambda s, k, d: losses.apo_zero(*s.answers(k.beta), s.smoothed, beta=k.beta),
    "apo_down": lambda s, k, d: losses.apo_down(*s.answers(k.beta), s.smoothed, beta=k.beta),
    "aot_unpaired": lambda s, k, d: losses.sigmoid(s.gap(k.beta), s.smoothed, beta=k.beta),
    "simpo": _simpo,
    "cpo": _cpo,
    "orpo": _orpo,
    "sft": lambda s, k, d: _nll(s, k),
}
"""aot and tdpo are not here: they read the batch's ranks and distributions too."""

PER_TOKEN = frozenset({"sigmoid_norm", "simpo", "orpo"})
"""Losses whose implicit reward is a mean over tokens; `accuracy` and `margin` follow where all are."""
