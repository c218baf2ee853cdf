"""From the token stream to what the losses of pairs read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, sum_by_sequence
from rewardlab.core.errors import UserError


def pair_sums(x: Tensor, batch: Batch, *, tail: float = 1.0) -> Tensor:
    """Float[P, 2]: sum_t weight_t x_t over the chosen and the rejected answer of each pair.

    `tail` (LD-DPO, Liu et al. 2024, arXiv 2409.06411) scales the tokens of the longer answer that lie
    beyond the shorter one's number of trained tokens; 1 is the plain sum, 0 cuts them off.
    """
    weighted = x * batch.weight.to(x)
    if tail == 1.0:
        return sum_by_sequence(weighted, batch)[batch.pairs]
    trained = batch.trained.long()
    running = trained.cumsum(0)
    before = torch.cat([running.new_zeros(1), running])[batch.offsets[:-1]]
    rank = running - before[batch.seq]  # 1 at a sequence's first trained token
    shared = sum_by_sequence(trained, batch)[batch.pairs].amin(1)
    # One copy of a sequence's tokens per pair it stands in: its tail depends on its partner.
    side = batch.pairs.flatten()
    lengths = batch.lengths[side]
    owner = torch.arange(side.numel(), device=side.device).repeat_interleave(lengths)
    within = torch.arange(owner.numel(), device=side.device) - (lengths.cumsum(0) - lengths)[owner]
    token = batch.offsets[side][owner] + within
    beyond = rank[token] > shared.repeat_interleave(2)[owner]
    kept = torch.where(beyond, tail, 1.0).to(x)
    zeros = torch.zeros(side.numel(), dtype=x.dtype, device=x.device)
    return zeros.index_add(0, owner, weighted[token] * kept).view(-1, 2)


@dataclass(frozen=True)
class Scores:
    """Float[P, 2] each, chosen first; label, weight and margin Float[P]."""

    logp: Tensor
    """Sums of log-probs, tails included."""
    change: Tensor | None
    """Sums of log-prob ratios to the reference, tails scaled; None where the batch has no reference."""
    score: Tensor | None
    """The same as scores of the f-divergence."""
    length: Tensor
    """Sums of token weights; 1 for an answer without trained tokens, whose sums are 0 anyway."""
    label: Tensor
    """As the rows give it."""
    smoothed: Tensor
    """The label after label smoothing."""
    weight: Tensor
    margin: Tensor

    def reference_scores(self) -> Tensor:
        """`score`, where a missing reference is the user's mistake."""
        if self.score is None:
            raise UserError(
                "preference: this loss needs the reference's log-probs, and the batch has none.",
                "Fill the stream `logp_ref`, or use simpo, cpo, orpo or sft.",
            )
        return self.score

    def answers(self, beta: float) -> tuple[Tensor, Tensor]:
        """Chosen and rejected score with half the margin off each."""
        score, half = self.reference_scores(), self.margin / (2 * beta)
        return score[:, 0] - half, score[:, 1] + half

    def gap(self, beta: float, *, per_token: bool = False) -> Tensor:
        """Chosen minus rejected score, margin off; `per_token` divides each by its length first."""
        score = self.reference_scores()
        if per_token:
            score = score / self.length
        return score[:, 0] - score[:, 1] - self.margin / beta
