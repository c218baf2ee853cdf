"""Asks a judge in both orders, so that the place of an answer cannot decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rewardlab.core.types import Rollout
from rewardlab.judges.base import Comparison, Finder, Judge, JudgeSettings


class BothOrders:
    """first = (P(a shown first wins) + 1 - P(b shown first wins)) / 2; antisymmetric by construction.

    Position bias is common in LLM judges (Zheng et al. 2023, arXiv 2306.05685). `asked` and
    `inconsistent` count over the life of this judge the pairs with both verdicts and those whose winner
    changed with the order. Such a pair has its average, or with `inconsistent_abstains` no verdict.
    Where only one order has a verdict, the pair takes the status of the other: half an answer would
    let the order decide again.
    """

    def __init__(self, judge: Judge, *, inconsistent_abstains: bool = False, name: str = "") -> None:
        self.name, self.judge = name or judge.name, judge
        self.inconsistent_abstains = inconsistent_abstains
        self.asked = 0
        self.inconsistent = 0

    @property
    def inconsistency(self) -> float:
        """Share of pairs so far whose winner changed with the order; 0 before the first."""
        return self.inconsistent / self.asked if self.asked else 0.0

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair; 2 questions each, in one call."""
        found = self.judge.compare([*pairs, *((b, a) for a, b in pairs)])
        return [self._both(c, d) for c, d in zip(found[: len(pairs)], found[len(pairs) :], strict=True)]

    def _both(self, forward: Comparison, backward: Comparison) -> Comparison:
        if forward.first is None or backward.first is None:
            failed = [c for c in (forward, backward) if c.first is None]
            return next((c for c in failed if c.status == "error"), failed[0])
        self.asked += 1
        mean = (forward.first + (1 - backward.first)) / 2
        if (forward.first - 0.5) * (0.5 - backward.first) < 0:
            self.inconsistent += 1
            reason = f"{self.name}: the winner changes with the order"
            return (
                Comparison.abstain(reason) if self.inconsistent_abstains else Comparison(mean, reason=reason)
            )
        return Comparison(mean, reason=forward.reason)


class BothOrdersSettings(JudgeSettings):
    """Another judge, asked in both orders and averaged."""

    kind: Literal["both_orders"] = "both_orders"
    judge: str
    """The judge that is asked twice."""
    inconsistent_abstains: bool = False
    """Abstain where the winner changes with the order."""

    def judges(self) -> list[str]:
        """The judge that is asked twice."""
        return [self.judge]

    def build(self, name: str, finder: Finder) -> BothOrders:
        """The judge."""
        abstains = self.inconsistent_abstains
        return BothOrders(finder.judge(self.judge), inconsistent_abstains=abstains, name=name)
