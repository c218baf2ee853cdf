"""Weights of pairs by how likely the current policy is to write them itself."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence


def likelihood_weight(out: Outputs, batch: Batch) -> Tensor:
    """WPO: make off-policy pairs look on-policy (Zhou et al. 2024, arXiv 2406.11827, eq. 2). Float[P].

    w(y) = exp(mean over trained tokens of log pi(y_t) - log sum_v pi(v)^2), weight_p = w(chosen) w(rejected)

    The second term aligns the weights, so that the policy's own samples get about 1, as TRL's `use_weighting`
    has it. It comes from the stream `log_collision` Float[T], log sum_v pi(v | prefix)^2 under the
    current policy, else from `out.slice_logp` over the whole vocabulary; without either it is left out,
    and long vague answers get small weights. A constant to the gradient. An answer without trained
    tokens has w = 1.
    """
    aligned = given(out.logp).detach()
    collision = _log_collision(out, batch)
    if collision is not None:
        aligned = aligned - collision.to(aligned)
    trained = batch.trained.to(aligned)
    mean = sum_by_sequence(aligned * trained, batch) / sum_by_sequence(trained, batch).clamp(min=1)
    return torch.exp(mean[batch.pairs].sum(1))


def _log_collision(out: Outputs, batch: Batch) -> Tensor | None:
    if "log_collision" in batch.streams:
        return batch.streams["log_collision"]
    if out.slice_logp is None or "slice_ids" in batch.action_streams:
        return None
    at = batch.action.nonzero().squeeze(-1)
    found = torch.logsumexp(2 * out.slice_logp.detach(), -1)
    return torch.zeros(batch.ids.numel(), dtype=found.dtype, device=found.device).index_put((at,), found)
