"""RiskPO: learn from the low end of a bundle's scores, not from their mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.objectives.advantage.groups import Groups


@dataclass(frozen=True)
class Quantiles:
    """Running estimates of two quantiles of the bundle score; part of a run's state."""

    low: float
    high: float
    alpha_low: float = 0.2
    alpha_high: float = 0.9

    def tracked(self, score: Tensor, *, rate: float = 0.1) -> Quantiles:
        """One step of stochastic quantile regression: q <- q + rate (alpha - mean 1[score < q])."""

        def moved(q: float, alpha: float) -> float:
            return q + rate * (alpha - float((score < q).double().mean()))

        return replace(self, low=moved(self.low, self.alpha_low), high=moved(self.high, self.alpha_high))


def mixed_value_at_risk(score: Tensor, q: Quantiles, *, tail_weight: float = 1.5) -> Tensor:
    """The mixed value-at-risk advantage of bundle scores, Float[M] -> Float[M] (RiskPO, arXiv 2510.00911).

    range = ((S - low)_+ - (S - high)_+ + low - high) / (alpha_high - alpha_low)
    tail  = -(low - S)_+ / alpha_low
    A     = (tail_weight * tail + range) / (tail_weight + 1)

    It is never positive, and exactly 0 above the high quantile: it pushes bad bundles down and nothing
    up. The scale is that of the score.
    """
    if q.low > q.high or not 0 < q.alpha_low < q.alpha_high <= 1:
        raise UserError(
            f"advantage riskpo: quantiles {q.low} and {q.high} at levels {q.alpha_low} and {q.alpha_high} "
            "are not in order.",
            "Levels lie in (0, 1] and the lower quantile is not above the higher.",
        )
    between = (score - q.low).clamp(min=0) - (score - q.high).clamp(min=0) + (q.low - q.high)
    tail = -(q.low - score).clamp(min=0) / q.alpha_low
    return (tail_weight * tail + between / (q.alpha_high - q.alpha_low)) / (tail_weight + 1)


def bundle_scores(reward: Tensor, group: Tensor, *, questions: int) -> tuple[Tensor, Tensor]:
    """Papers of several questions: the j-th answers of a bundle's groups together form paper j.

    Returns (score Float[M], paper Long[N]): the summed reward of each paper and the paper of each answer.
    Bundles are runs of `questions` groups in the order of first appearance. All groups must have equal
    sizes, and the number of groups must be a multiple of `questions`; else UserError.
    """
    members: dict[int, list[int]] = {}
    for i, g in enumerate(group.tolist()):
        members.setdefault(g, []).append(i)
    rows = list(members.values())
    sizes = {len(r) for r in rows}
    if len(sizes) != 1 or len(rows) % questions:
        raise UserError(
            f"advantage riskpo: {len(rows)} groups of sizes {sorted(sizes)} do not make bundles of "
            f"{questions}.",
            "Use groups of one size, and a number of prompts per step that the bundle size divides.",
        )
    size = sizes.pop()
    paper = torch.zeros_like(group)
    for number, row in enumerate(rows):
        for j, i in enumerate(row):
            paper[i] = (number // questions) * size + j
    zeros = torch.zeros(len(rows) // questions * size, dtype=reward.dtype, device=reward.device)
    return zeros.index_add(0, paper, reward), paper


def riskpo(
    reward: Tensor, group: Tensor, q: Quantiles, *, questions: int = 5, tail_weight: float = 1.5
) -> Tensor:
    """The paper's mixed value-at-risk, over its bundle's spread, given to each of its answers. Float[N].

    A_i = mixed_value_at_risk(score of i's paper) / (std of its bundle's scores + 1e-6)

    Credit within a paper is uniform; the released code has three other splits. A bundle of equal scores
    gets 0. Every answer needs a score, since a paper with a hole has no sum: fill or drop before. Update
    `q` with `Quantiles.tracked` afterwards.
    """
    score, paper = bundle_scores(reward, group, questions=questions)
    bundle = torch.arange(len(score), device=score.device) // _papers(group)
    groups = Groups(bundle)
    std = groups.std(groups.centred(score))[groups.number]
    a = mixed_value_at_risk(score, q, tail_weight=tail_weight) / (std + 1e-6)
    return torch.where(groups.differs(score), a, torch.zeros_like(a))[paper]


def _papers(group: Tensor) -> int:
    """Papers per bundle: answers per group."""
    return int((group == group[0]).sum())
