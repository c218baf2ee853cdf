"""Preference losses on single answers: good or bad, with no partner."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.objectives.reduction import Term, Terms, statistic
from rewardlab.objectives.reward import sequence_weight, soft_logistic


def implicit_reward(logp: Tensor, logp_ref: Tensor, *, beta: float) -> Tensor:
    """beta (log pi - log ref) per token: the reward of which the policy is the optimum. Float[T] -> Float[T].

    Its sum over an answer is DPO's reward up to a constant of the prompt. Its running sum is V_t - V_0 with
    V_t = beta log E_ref[exp(r / beta) | prefix], so a model trained on outcomes alone gives step
    rewards as differences (Yuan et al. 2024, arXiv 2412.01981).
    """
    return beta * (logp - logp_ref)


def kl_baseline(logp: Tensor, batch: Batch) -> Tensor:
    """KTO's z0 before beta: max(0, mean over answers of log pi(y') - log ref(y')), scalar, no gradient.

    The batch holds answers y' that belong to *other* prompts of the step (each prompt with the next
    one's answer, say), and their `logp_ref`; it is the whole step's batch, so that z0 does not depend on
    a split. A mean over the answers that have trained tokens; 0 where none has.
    """
    change = sum_by_sequence((logp.detach() - batch.streams["logp_ref"]) * batch.weight.to(logp), batch)
    count = max(batch.counts()["sequence"], 1)
    return (change.sum() / count).clamp(min=0)


def kto(
    out: Outputs,
    batch: Batch,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Terms:
    """KTO: prospect theory on single answers (Ethayarajh et al. 2024, arXiv 2402.01306), unit sequence.

    D = sum_t log pi(y_t) - log ref(y_t)
    desirable:   desirable_weight   (1 - sigmoid(beta (D - z0)))
    undesirable: undesirable_weight (1 - sigmoid(beta (z0 - D)))

    `batch.parts["desirable"]` Float[N] is 1 or 0 (between: the expectation over the label);
    `batch.parts["kl_baseline"]` Float[N] is z0, the same for the whole step (see `kl_baseline`), without
    gradient. z0 = 0 is TRL's `apo_zero_unpaired`. Needs the stream `logp_ref`. Answers without a trained
    token count for nothing.
    """
    change, desirable, weight = _read(out, batch, "kto")
    if "kl_baseline" not in batch.parts:
        raise UserError(
            'kto: the batch has no `parts["kl_baseline"]`.',
            "Compute it over the whole step by `kl_baseline`.",
        )
    ahead = beta * (change - batch.parts["kl_baseline"].to(change).detach())
    gain = desirable_weight * desirable * torch.sigmoid(-ahead)
    loss = weight * (gain + undesirable_weight * (1 - desirable) * torch.sigmoid(ahead))
    return {"kto": Term(loss.sum(), "sequence"), **_statistics(beta * change, ahead, desirable, weight)}


def implicit_outcome(out: Outputs, batch: Batch, *, beta: float, delta: float = 0.0) -> Terms:
    """Right or wrong with the implicit reward as the logit, unit sequence.

    loss_i = -y log sigmoid(beta D - delta) - (1 - y) log sigmoid(-(beta D - delta))

    With delta = 0 it trains an implicit process reward model from outcomes (arXiv 2412.01981); with the
    running mean of rewards as delta it is unpaired BCO (arXiv 2404.04656). Reads
    `batch.parts["desirable"]` and the stream `logp_ref` as `kto` does.
    """
    change, desirable, weight = _read(out, batch, "implicit_outcome")
    ahead = beta * change - delta
    loss = weight * soft_logistic(ahead, desirable)
    return {
        "implicit_outcome": Term(loss.sum(), "sequence"),
        **_statistics(beta * change, ahead, desirable, weight),
    }


def _read(out: Outputs, batch: Batch, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Change from the reference (a plain sum), flag and weight of each answer, Float[N]."""
    if "desirable" not in batch.parts:
        raise UserError(
            f'{name}: the batch has no `parts["desirable"]`.', "Give each answer 1 (good) or 0 (bad)."
        )
    logp = given(out.logp)
    trained = batch.trained.to(logp)
    change = sum_by_sequence((logp - batch.streams["logp_ref"]) * trained, batch)
    return change, batch.parts["desirable"].to(change), sequence_weight(batch, change)


def _statistics(reward: Tensor, ahead: Tensor, desirable: Tensor, weight: Tensor) -> Terms:
    used = weight != 0
    right = (torch.sign(ahead) * torch.sign(desirable - 0.5) + 1) / 2
    return {
        "accuracy": statistic((right * used).sum(), "sequence"),
        "implicit_reward": statistic((reward * used).sum(), "sequence"),
    }
