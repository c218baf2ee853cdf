"""Bootstrap intervals: BCa for means and ratios, and nested resampling of seeds and prompts.

`scipy.stats.bootstrap` computes its acceleration from n jackknife samples of n values, which is slow
and large at thousands of units. Means and ratios have that constant in closed form, so only the
resampling is left; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rewardlab.core.statistics.interval import TINY, Floats, Interval, as_values, t_interval, unbounded

FEW = 30
"""Below this many units BCa covers less than Student's interval (0.85 against 0.95 at n = 5 normal
values), so the t form is used."""
DRAWS = 4_000_000
"""Values drawn per interval; bounds the time at large n."""
CHUNK = 1_000_000
"""Values drawn at once; bounds the memory."""


def mean_interval(
    values: ArrayLike, *, seed: int, level: float = 0.95, resamples: int | None = None
) -> Interval:
    """BCa bootstrap interval for a mean (Efron 1987, "Better Bootstrap Confidence Intervals").

    Fewer than 30 values: `t_interval`. Equal values: an interval of width 0, since there is nothing to
    resample; for rates use `wilson`, which still has a width there. `resamples` defaults to between
    2000 and 9999, fewer for larger n.
    """
    x = as_values(values)
    return ratio_interval(x, np.ones_like(x), seed=seed, level=level, resamples=resamples)


def ratio_interval(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int | None = None,
) -> Interval:
    """BCa interval for sum(numerator) / sum(denominator) over units, such as KL per token over prompts.

    Also a regression slope through the origin, with numerator x * y and denominator x * x. The
    acceleration is sum(l^3) / (6 sum(l^2)^1.5) with the influence l = numerator - ratio * denominator.
    Fewer than 30 units: Student's interval on the linearised values. Denominators must not be negative;
    if they sum to 0 the estimate is nan and unbounded.
    """
    top, bottom = as_values(numerator), as_values(denominator)
    if top.shape != bottom.shape:
        raise ValueError(f"{top.size} numerators but {bottom.size} denominators")
    if (bottom < 0).any():
        raise ValueError("a denominator is negative")
    n, total = top.size, float(bottom.sum())
    if n < 2 or total == 0:
        return unbounded(float(top.sum()) / total if total else math.nan, n, level)
    ratio = float(top.sum()) / total
    influence = top - ratio * bottom
    if np.abs(influence).max() <= max(1e-12 * np.abs(top).max(), TINY):
        return Interval(ratio, ratio, ratio, n, level)
    if n < FEW:
        return t_interval(ratio + influence * n / total, level=level)
    draws = resamples or min(9999, max(2000, DRAWS // n))
    replicates = _resampled_ratios(top, bottom, draws, np.random.default_rng(seed))
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    low, high = _bca_limits(ratio, replicates, acceleration, level)
    return Interval(ratio, low, high, n, level)


def _resampled_ratios(top: Floats, bottom: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """The ratio on `draws` resamples of the units; resamples without any denominator are left out."""
    n = top.size
    constant = bool((bottom == bottom[0]).all())
    out = np.empty(draws)
    rows = max(1, CHUNK // n)
    for start in range(0, draws, rows):
        picks = rng.integers(0, n, (min(rows, draws - start), n), dtype=np.int32)
        below = float(bottom[0]) * n if constant else bottom[picks].sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[start : start + len(picks)] = top[picks].sum(1) / below
    return out[np.isfinite(out)]


def _bca_limits(
    estimate: float, replicates: Floats, acceleration: float, level: float
) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles of the replicates."""
    below = ((replicates < estimate).mean() + (replicates <= estimate).mean()) / 2
    edge = 1 / (replicates.size + 1)
    bias = stats.norm.ppf(np.clip(below, edge, 1 - edge))
    shifted = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    quantiles = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(replicates, quantiles)
    return float(low), float(high)


def hierarchical_bootstrap(
    units: Sequence[ArrayLike], *, seed: int, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Interval for the mean over outer units (seeds) of the mean over inner units (prompts).

    Each resample draws the outer units with replacement and, within each drawn one, its inner values
    (Davison and Hinkley 1997, section 3.8). With the usual 3 to 10 seeds, percentiles of such a
    bootstrap are far too narrow, so it supplies the standard error only:
    estimate +- t(k-1) * sqrt(k / (k-1)) * sd(replicates), k the number of outer units. Inner noise is
    counted once within the units and once between their means, so the interval errs on the wide side.
    One outer unit bounds nothing. Prompts shared by all seeds are treated as nested. n is k.
    """
    groups = [as_values(u) for u in units]
    if any(g.size == 0 for g in groups):
        raise ValueError("an outer unit has no values")
    k = len(groups)
    means = [float(g.mean()) for g in groups]
    if k < 2:
        return unbounded(means[0] if k else math.nan, k, level)
    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(k, np.full(k, 1 / k), size=resamples)  # [resamples, k]
    totals = np.zeros(resamples)
    for column, group in zip(times_drawn.T, groups):
        # A unit drawn c times contributes c independent inner resamples.
        owner = np.repeat(np.arange(resamples), column)
        rows = max(1, CHUNK // group.size)
        for start in range(0, owner.size, rows):
            part = owner[start : start + rows]
            drawn = group[rng.integers(0, group.size, (part.size, group.size), dtype=np.int32)].mean(1)
            totals += np.bincount(part, weights=drawn, minlength=resamples)
    estimate = float(np.mean(means))
    error = float((totals / k).std(ddof=1)) * math.sqrt(k / (k - 1))
    half = float(stats.t.ppf(0.5 + level / 2, k - 1)) * error
    return Interval(estimate, estimate - half, estimate + half, k, level)
