"""What a pairwise judge's verdicts in both presentation orders say of the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rewardlab.audit.annotators import krippendorff_alpha
from rewardlab.core.statistics import bounded_mean_interval, wilson

Winner = int | None
"""1 or 2, in the pair's own naming; None where the judge gave no readable verdict."""


@dataclass(frozen=True)
class Verdict:
    """One pair seen by one judge twice: answer 1 shown first, then answer 2 shown first."""

    pair: str
    winner: Winner
    swapped: Winner
    """The winner when answer 2 was shown first, in the naming of the first presentation."""
    label: int
    """The better answer, 1 or 2, by human judgement."""

    @property
    def combined(self) -> float | None:
        """1 if answer 1 won in both orders, 0 if answer 2 did, 1/2 if the orders disagree; None if unread."""
        if self.winner is None or self.swapped is None:
            return None
        return ((self.winner == 1) + (self.swapped == 1)) / 2


def judge_card(verdicts: Sequence[Verdict], *, level: float = 0.95) -> dict[str, Any]:
    """Accuracy in either order, consistency, and preference for a position, each with an interval.

    accuracy_first_order, accuracy_swapped: share right in each presentation (Wilson). accuracy: mean over
    both. accuracy_consistent: share of pairs right in both orders. consistency: same winner in both orders.
    first_position: share of verdicts for the answer shown first, 1/2 without position bias whatever the
    labels are, since every pair is shown both ways; its interval is over pairs. first_when_inconsistent:
    of the pairs whose verdict flips, how many followed the first position; position_p is the two-sided
    sign test of that. Pairs with an unread verdict are counted in `unread` and left out of what needs both.
    """
    first = [v.winner == v.label for v in verdicts if v.winner is not None]
    second = [v.swapped == v.label for v in verdicts if v.swapped is not None]
    both = [v for v in verdicts if v.combined is not None]
    right = np.array([((v.winner == v.label) + (v.swapped == v.label)) / 2 for v in both])
    position = np.array([((v.winner == 1) + (v.swapped == 2)) / 2 for v in both])
    flipped = position[position != 0.5]
    to_first = int(flipped.sum())
    test = stats.binomtest(to_first, flipped.size).pvalue if flipped.size else 1.0
    return {
        "pairs": len(verdicts),
        "unread": len(verdicts) - len(both),
        "accuracy": bounded_mean_interval(right, level=level).as_dict(),
        "accuracy_first_order": wilson(sum(first), len(first), level=level).as_dict(),
        "accuracy_swapped": wilson(sum(second), len(second), level=level).as_dict(),
        "accuracy_consistent": wilson(int((right == 1).sum()), len(both), level=level).as_dict(),
        "consistency": wilson(int((position == 0.5).sum()), len(both), level=level).as_dict(),
        "first_position": bounded_mean_interval(position, level=level).as_dict(),
        "first_when_inconsistent": wilson(to_first, flipped.size, level=level).as_dict(),
        "position_p": float(test),
    }


def judge_agreement(
    judges: Mapping[str, Sequence[Verdict]], *, seed: int, level: float = 0.95
) -> dict[str, Any]:
    """How far judges agree on the pairs they share: share of equal combined verdicts, and alpha.

    A combined verdict is a win in both orders, or a tie where the orders disagree. `alpha` is
    Krippendorff's for nominal values over all judges; `pairs` has one row per two judges.
    """
    names = list(judges)
    said = {name: {v.pair: v.combined for v in judges[name] if v.combined is not None} for name in names}
    items = list(dict.fromkeys(pair for name in names for pair in said[name]))
    table = [[said[name].get(item) for name in names] for item in items]
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            shared = [k for k in said[a] if k in said[b]]
            same = sum(said[a][k] == said[b][k] for k in shared)
            rows.append(
                {"first": a, "second": b, "agreement": wilson(same, len(shared), level=level).as_dict()}
            )
    return {"alpha": krippendorff_alpha(table, seed=seed, level=level).as_dict(), "pairs": rows}
