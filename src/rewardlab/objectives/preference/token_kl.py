"""DPO with the KL divergence controlled token by token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.objectives.preference.scores import pair_sums
from rewardlab.objectives.reduction import Term, Terms, statistic
from rewardlab.objectives.reward import pair_label, pair_weight, soft_logistic
from rewardlab.objectives.reward.pairwise import pair_margin, ranked_right


def tdpo(
    out: Outputs,
    batch: Batch,
    *,
    beta: float,
    alpha: float = 0.5,
    variant: Literal[1, 2] = 2,
) -> Terms:
    """Token-level DPO (Zeng et al. 2024, arXiv 2404.11999), unit pair.

    D(y) = sum_t KL(ref(. | y_<t) || pi(. | y_<t)) over the trained tokens of y
    TDPO1: x = gap - (D(r) - D(c))
    TDPO2: x = gap - alpha (D(r) - stop_gradient(D(c)))
    loss_p = -y log sigmoid(beta x - m) - (1 - y) log sigmoid(-(beta x - m))

    Reads `out.slice_logp` Float[A, V], the policy's log-probs over the whole vocabulary at every action, and
    `batch.action_streams["slice_logp"]` Float[A, V], the reference's; a part of the vocabulary is refused.
    Reads the stream `logp_ref` too.
    """
    change = pair_sums(given(out.logp) - batch.streams["logp_ref"], batch)
    gap = change[:, 0] - change[:, 1]
    of_chosen, of_rejected = pair_sums(forward_kl(out, batch), batch).unbind(1)
    x = gap - held_back(of_chosen, of_rejected, alpha=alpha, variant=variant)
    loss = soft_logistic(beta * x - pair_margin(batch, x), pair_label(batch, x))
    return {
        "tdpo": Term((pair_weight(batch, x) * loss).sum(), "pair"),
        "accuracy": statistic(ranked_right(gap).sum(), "pair"),
        "margin": statistic(beta * gap.sum(), "pair"),
        "chosen_kl": statistic(of_chosen.sum(), "pair"),
        "rejected_kl": statistic(of_rejected.sum(), "pair"),
    }


def held_back(of_chosen: Tensor, of_rejected: Tensor, *, alpha: float, variant: Literal[1, 2]) -> Tensor:
    """What comes off the gap: D(r) - D(c), or alpha (D(r) - stop_gradient(D(c))). Float[P], nats."""
    if variant == 1:
        return of_rejected - of_chosen
    return alpha * (of_rejected - of_chosen.detach())


def forward_kl(out: Outputs, batch: Batch) -> Tensor:
    """KL(ref || pi) over the vocabulary at every action, 0 at other tokens. Float[T] nats, with gradient."""
    policy, reference = given(out.slice_logp), batch.action_streams.get("slice_logp")
    if reference is None or "slice_ids" in batch.action_streams:
        raise UserError(
            "tdpo: the KL to the reference needs its log-probs over the whole vocabulary.",
            'Fill `action_streams["slice_logp"]` with Float[A, V] and give no `slice_ids`.',
        )
    reference = reference.to(policy)
    kl = (reference.exp() * (reference - policy)).sum(-1)
    zeros = torch.zeros(batch.ids.numel(), dtype=kl.dtype, device=kl.device)
    return zeros.index_put((batch.action.nonzero().squeeze(-1),), kl)
