"""A reward beside a judge on the answers of many systems: single preferences, and the ranking of systems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rewardlab.core.statistics import Interval, ratio_interval
from rewardlab.core.statistics.interval import Floats
from rewardlab.core.statistics.logistic import Ints, clustered_intervals

CLEAR = 0.1
"""Difference of the judge's probabilities from which one answer counts as the better."""


def preference_agreement(
    margin: Floats, p: Floats, longer: Floats, instruction: Ints, *, seed: int, level: float = 0.95
) -> dict[str, Any]:
    """How often a reward orders answer and baseline as the judge does; intervals cluster by instruction.

    margin Float[N]: reward of the answer minus that of the baseline; p Float[N]: the judge's probability
    for the answer; longer Float[N]: length difference in any increasing unit. Rows with p = 1/2 have no
    right answer: left out and counted. Equal rewards count 1/2.

    accuracy; accuracy_longer and accuracy_shorter: where the judge prefers the longer, the shorter answer;
    accuracy_balanced: the mean of these two, 1/2 for any reward that only reads length; over_longer:
    accuracy minus that of preferring the longer answer, on the same rows. beyond_length: coefficient of the
    margin (in its own sd) in logit p = a margin + b tanh(longer / sd) + c: what the reward tells of the
    judge's preference that the length does not.
    """
    decided = p != 0.5
    _, cluster = np.unique(instruction[decided], return_inverse=True)
    sign = np.sign(p - 0.5)[decided]
    correct = (1 + np.sign(margin[decided]) * sign) / 2
    baseline = (1 + np.sign(longer[decided]) * sign) / 2

    def mean(values: Floats, use: Floats) -> dict[str, float | int | None]:
        top, rows = np.bincount(cluster, values * use), np.bincount(cluster, use)
        return {**ratio_interval(top, rows, seed=seed, level=level).as_dict(), "n": int(use.sum())}

    one = np.ones_like(correct)
    right_longer, right_shorter = (baseline == 1).astype(float), (baseline == 0).astype(float)
    balance = (right_longer / max(right_longer.sum(), 1) + right_shorter / max(right_shorter.sum(), 1)) / 2
    sides = bool(right_longer.any() and right_shorter.any())
    balanced = mean(correct, balance * (right_longer + right_shorter).sum()) if sides else None
    if balanced is not None:
        balanced["n"] = int((right_longer + right_shorter).sum())
    x = np.column_stack([_scaled(margin), np.tanh(_scaled(longer)), np.ones_like(p)])
    beyond = clustered_intervals(x, p, np.full(3, 1e-2), instruction, level=level)[0]
    return {
        "accuracy": mean(correct, one),
        "accuracy_longer": mean(correct, right_longer),
        "accuracy_shorter": mean(correct, right_shorter),
        "accuracy_balanced": balanced,
        "over_longer": mean(correct - baseline, one),
        "beyond_length": beyond.as_dict(),
        "reward_ties": int((margin[decided] == 0).sum()),
        "judge_ties": int((~decided).sum()),
    }


def between_systems(
    value: Floats, p: Floats, length: Floats, instruction: Ints, *, seed: int, level: float = 0.95
) -> dict[str, Any]:
    """How often a reward orders two systems' answers to one instruction as the judge's probabilities do.

    Over all pairs of answers to one instruction whose probabilities against the baseline differ by at least
    0.1: the baseline drops out, so a reward earns nothing for knowing its style. concordance, the same for
    preferring the longer answer, and over_longer, the difference; equal values count 1/2; intervals over
    instructions.
    """
    right: list[list[float]] = []
    for i in np.unique(instruction):
        at = np.flatnonzero(instruction == i)
        a, b = (at[index] for index in np.triu_indices(len(at), 1))
        clear = np.abs(p[a] - p[b]) >= CLEAR
        sign = np.sign(p[a] - p[b])[clear]
        found = [(1 + np.sign(v[a] - v[b])[clear] * sign) / 2 for v in (value, length)]
        if sign.size:
            right.append([float(found[0].sum()), float(found[1].sum()), float(sign.size)])
    own, longer, count = np.array(right).reshape(-1, 3).T

    def mean(values: Floats) -> dict[str, float | int | None]:
        return ratio_interval(values, count, seed=seed, level=level).as_dict()

    return {
        "pairs": int(count.sum()),
        "concordance": mean(own),
        "longer_concordance": mean(longer),
        "over_longer": mean(own - longer),
    }


def rank_agreement(
    values: Mapping[str, float],
    reference: Mapping[str, float],
    *,
    method: Literal["spearman", "kendall"] = "spearman",
    level: float = 0.95,
) -> Interval:
    """Rank correlation of two rankings over the systems that both have; n is their number.

    Interval on Fisher's scale: tanh(atanh(r) +- z se), se^2 = (1 + r^2 / 2) / (n - 3) for Spearman (Bonett
    and Wright 2000) and 0.437 / (n - 4) for Kendall's tau-b (Fieller, Hartley and Pearson 1957). A perfect r
    counts there as the largest value below 1, so it keeps a width. Fewer than 5 systems bound nothing; fewer
    than 3, or equal values of all of them, give nan.
    """
    names = [name for name in values if name in reference]
    a, b = (np.array([x[name] for name in names], dtype=np.float64) for x in (values, reference))
    n = len(names)
    r = _correlation(a, b, method) if n >= 3 else math.nan
    if n < 5 or math.isnan(r):
        return Interval(r, -math.inf, math.inf, n, level)
    spearman = method == "spearman"
    most = 1 - (12 / (n**3 - n) if spearman else 4 / (n * (n - 1)))
    at = math.atanh(max(-most, min(most, r)))
    error = math.sqrt((1 + r * r / 2) / (n - 3) if spearman else 0.437 / (n - 4))
    half = float(stats.norm.ppf(0.5 + level / 2)) * error
    return Interval(r, min(r, math.tanh(at - half)), max(r, math.tanh(at + half)), n, level)


def _correlation(a: Floats, b: Floats, method: Literal["spearman", "kendall"]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    found = stats.spearmanr(a, b) if method == "spearman" else stats.kendalltau(a, b)
    return max(-1.0, min(1.0, float(found.statistic)))


def _scaled(x: NDArray[np.float64]) -> Floats:
    """In its own standard deviations about 0; a constant stays 0 apart from its mean."""
    spread = float(x.std())
    return x / spread if spread > 0 else np.zeros_like(x)
