"""Optimal transport of preferences: who is compared with whom depends on the whole step.

AOT (Melnyk et al. 2024, arXiv 2406.05882) sorts values over the batch and compares those of equal rank.
Sorted within a micro-batch that is another loss. So the ranks are taken once per step, from a forward
pass without gradient of the whole step, and written into the batch. Given the ranks the loss is a sum over
pairs again, and a split into micro-batches changes neither value nor gradient. Dropout, if there is any,
acts on the loss and not on the ranks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.objectives.preference.scores import pair_sums


def match(batch: Batch, logp: Tensor, *, loss: Collection[str], tail: float = 1.0) -> Batch:
    """The whole step's batch with ranks written in, for aot and aot_unpaired; others are left as they are.

    `loss`: the names of the losses. `logp` Float[T]: the current policy's log-probs of the whole step, on the
    batch's device. `tail`: LD-DPO's weight.
    aot: pair stream `matched_ref_gap` Float[P], the reference's gap that has the rank of the pair's own.
    aot_unpaired: the chosen answer of rank k is paired with the rejected one of rank k, rank by change
    from the reference. Labels, weights and margins belong to pairs that no longer exist, so unequal
    ones are refused. Ties keep the batch's order.
    """
    logp, reference = logp.detach(), batch.streams["logp_ref"].to(logp)
    if "aot" in loss:
        gap = _gap(pair_sums(logp, batch, tail=tail))
        sorted_reference = _gap(pair_sums(reference, batch, tail=tail)).sort().values
        matched = torch.empty_like(sorted_reference)
        matched[gap.argsort(dim=0, stable=True)] = sorted_reference
        batch = replace(batch, pair_streams={**batch.pair_streams, "matched_ref_gap": matched})
    if "aot_unpaired" in loss:
        _refuse_unequal(batch)
        change = pair_sums(logp - reference, batch, tail=tail)
        order = change.argsort(dim=0, stable=True)
        batch = replace(batch, pairs=batch.pairs.gather(0, order))
    return batch


def matched_gap(logp: Tensor, batch: Batch, *, tail: float = 1.0) -> Tensor:
    """Float[P]: the policy's gap minus the reference's gap of equal rank, from log-probs Float[T]."""
    if "matched_ref_gap" not in batch.pair_streams:
        raise UserError(
            "aot: the pairs of this batch are not ranked.",
            "Call `match` on the whole step's batch before splitting it.",
        )
    return _gap(pair_sums(logp, batch, tail=tail)) - batch.pair_streams["matched_ref_gap"].to(logp)


def _gap(sums: Tensor) -> Tensor:
    return sums[:, 0] - sums[:, 1]


def _refuse_unequal(batch: Batch) -> None:
    for name, values in batch.pair_streams.items():
        if name in ("label", "weight", "margin") and bool((values != values[:1]).any()):
            raise UserError(
                f"aot_unpaired: the pairs have unequal values of `{name}`, but are paired anew.",
                "Use aot, or rows without it.",
            )
