"""A reward beside a judge on the answers of many systems: single preferences, and the ranking of systems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rewardlab.core.statistics.interval import Floats
from rewardlab.core.statistics.logistic import Ints, clustered_intervals
from rewardlab.core.statistics import Interval, ratio_interval

RESAMPLES = 2000


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


def rank_agreement(
    values: Mapping[str, Floats],
    reference: Mapping[str, float],
    *,
    seed: int,
    method: Literal["spearman", "kendall"] = "spearman",
    level: float = 0.95,
) -> Interval:
    """Rank correlation over systems between mean values and a leaderboard; n is the number of systems.

    values: system -> Float[N], one entry per instruction. The interval resamples systems, and
    instructions within each (percentile bootstrap). Fewer than three shared systems, or equal values of
    all of them, give nan.
    """
    names = [name for name in values if name in reference and len(values[name])]
    target = np.array([reference[name] for name in names])
    at = np.array([float(values[name].mean()) for name in names])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES if len(names) >= 3 else 0):
        drawn = rng.integers(0, len(names), len(names))
        means = [float(rng.choice(values[names[i]], len(values[names[i]])).mean()) for i in drawn]
        found.append(_correlation(np.array(means), target[drawn], method))
    kept = np.array([f for f in found if math.isfinite(f)])
    estimate = _correlation(at, target, method) if len(names) >= 3 else math.nan
    if not kept.size:
        return Interval(estimate, -math.inf, math.inf, len(names), level)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), len(names), level)


def _correlation(a: Floats, b: Floats, method: Literal["spearman", "kendall"]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    found = stats.spearmanr(a, b) if method == "spearman" else stats.kendalltau(a, b)
    return float(found.statistic)


def _scaled(x: NDArray[np.float64]) -> Floats:
    """In its own standard deviations about 0; a constant stays 0 apart from its mean."""
    spread = float(x.std())
    return x / spread if spread > 0 else np.zeros_like(x)
