"""How often the reward prefers the better answer: by label, by gold value, by margin, by length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rewardlab.audit.scoring import Scored
from rewardlab.core.statistics import Interval, mean_interval, wilson

Floats = NDArray[np.float64]


def rate(correct: Floats, *, level: float = 0.95) -> Interval:
    """Share of correct answers with Wilson's interval; ties are 1/2."""
    return wilson(float(correct.sum()), correct.size, level=level)


def against_chance(correct: Floats) -> float:
    """Two-sided exact binomial p-value of "right half of the time"; ties are left out (the sign test)."""
    right, wrong = int((correct == 1).sum()), int((correct == 0).sum())
    return float(stats.binomtest(right, right + wrong).pvalue) if right + wrong else 1.0


def margin_deciles(scored: Scored, *, level: float = 0.95) -> list[dict[str, float | int]]:
    """Accuracy in ten equal-mass bins of |margin|, smallest first; fewer bins under 100 pairs."""
    size = np.abs(scored.margin)
    bins = max(1, min(10, size.size // 10))
    rows = []
    for positions in np.array_split(np.argsort(size, kind="stable"), bins):
        at = rate(scored.correct[positions], level=level)
        rows.append(
            {
                "margin": float(size[positions].mean()),
                "accuracy": at.estimate,
                "low": at.low,
                "high": at.high,
                "n": at.n,
            }
        )
    return rows


def gold_accuracy(scored: Scored, *, level: float = 0.95) -> tuple[dict[str, Interval], int]:
    """Agreement of the reward, and of the labels, with the sign of the gold difference; and gold ties.

    Uses the pairs with `gold_chosen` and `gold_rejected` in their meta, without those of equal gold.
    Empty where there is none.
    """
    where, (gold_better, gold_worse) = scored.meta("gold_chosen", "gold_rejected")
    gold = gold_better - gold_worse
    ties = int((gold == 0).sum())
    where, gold = where[gold != 0], gold[gold != 0]
    if not where.size:
        return {}, ties
    agree = (1 + np.sign(scored.margin[where]) * np.sign(gold)) / 2
    return {
        "accuracy_gold": rate(agree, level=level),
        "label_agreement_gold": rate((gold > 0).astype(float), level=level),
    }, ties


def bayes_accuracy(scored: Scored, *, seed: int, level: float = 0.95) -> Interval | None:
    """mean max(p, 1 - p), the accuracy against noisy labels that no predictor can expect to pass.

    p is `p_chosen` in the pair's meta: the labeller's true probability of the label it gave.
    """
    where, (p,) = scored.meta("p_chosen")
    return mean_interval(np.maximum(p, 1 - p), seed=seed, level=level) if where.size else None
