"""Agreement between annotators beyond chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from rewardlab.core.statistics import Interval

Floats = NDArray[np.float64]
RESAMPLES = 2000


def counts_of(ratings: Sequence[Sequence[Hashable | None]]) -> Floats:
    """Float[I, C]: how often each item got each value; None is a missing rating."""
    values: dict[Hashable, int] = {}
    for rating in (r for item in ratings for r in item if r is not None):
        values.setdefault(rating, len(values))
    counts = np.zeros((len(ratings), max(len(values), 1)))
    for row, item in enumerate(ratings):
        for rating in item:
            if rating is not None:
                counts[row, values[rating]] += 1
    return counts


def krippendorff_alpha(
    ratings: Sequence[Sequence[Hashable | None]], *, seed: int, level: float = 0.95
) -> Interval:
    """Krippendorff's alpha for nominal values, with a percentile bootstrap over items.

    alpha = 1 - observed / expected disagreement. Observed: over items with m >= 2 ratings, the pairs of
    unequal ratings, each weighted 1 / (m - 1), divided by the number n of all such ratings. Expected: the
    chance that two of these n ratings, whatever their items, are unequal. (Krippendorff, "Content
    Analysis".) 1 is perfect, 0 is chance; missing ratings are allowed. nan without items of two ratings, or
    where only one value was ever used.
    """
    counts = counts_of(ratings)
    return _bootstrap(counts[counts.sum(1) >= 2], _alpha, seed, level)


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]], *, seed: int, level: float = 0.95) -> Interval:
    """Fleiss' kappa, with a percentile bootstrap over items; every item has the same number of ratings.

    kappa = (P - P_e) / (1 - P_e), P the mean share of agreeing pairs of ratings within an item, P_e the
    sum of squared shares of the values (Fleiss 1971, "Measuring nominal scale agreement among many
    raters"). ValueError for items with unequal numbers of ratings. nan where only one value was used.
    """
    counts = counts_of(ratings)
    sizes = set(counts.sum(1).tolist())
    if len(sizes) > 1 or sizes & {0.0, 1.0}:
        raise ValueError("Fleiss' kappa needs the same number of ratings, at least two, on every item")
    return _bootstrap(counts, _kappa, seed, level)


def _alpha(counts: Floats) -> float:
    size = counts.sum(1)
    total = counts.sum(0)
    n = float(total.sum())
    if n < 2:
        return math.nan
    observed = float(((size**2 - (counts**2).sum(1)) / (size - 1)).sum()) / n
    expected = (n * n - float((total**2).sum())) / (n * (n - 1))
    return 1 - observed / expected if expected > 0 else math.nan


def _kappa(counts: Floats) -> float:
    m = float(counts[0].sum())
    agree = float((((counts**2).sum(1) - m) / (m * (m - 1))).mean())
    shares = counts.sum(0) / counts.sum()
    chance = float((shares**2).sum())
    return (agree - chance) / (1 - chance) if chance < 1 else math.nan


def _bootstrap(counts: Floats, statistic: Callable[[Floats], float], seed: int, level: float) -> Interval:
    n = len(counts)
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0, level)
    rng = np.random.default_rng(seed)
    found = np.array([statistic(counts[rng.integers(0, n, n)]) for _ in range(RESAMPLES)])
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail]) if np.isfinite(found).any() else (-math.inf, math.inf)
    return Interval(statistic(counts), float(low), float(high), n, level)
