"""Intervals for rates and for differences of rates, without the failures of the Wald interval at 0 and 1."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy import stats

from rewardlab.core.statistics.interval import Interval, as_values


def wilson(k: float, n: float, *, level: float = 0.95) -> Interval:
    """Wilson's score interval for a rate k / n (Wilson 1927).

    The limits are the rates p at which |k/n - p| = z * sqrt(p (1 - p) / n). k may be fractional, since a
    tie counts half. n = 0 gives nan with the limits 0 and 1.
    """
    if not 0 <= k <= n:
        raise ValueError(f"a rate needs 0 <= k <= n, got k={k}, n={n}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0, level)
    z = float(stats.norm.ppf(0.5 + level / 2))
    rate = k / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The limits are exactly 0 and 1 at the ends; rounding must not move them past the estimate.
    low = 0.0 if k == 0 else centre - half
    high = 1.0 if k == n else centre + half
    return Interval(rate, low, high, round(n), level)


def bounded_mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval for the mean of values in [0, 1], such as wins with ties at 1/2 or rates within prompts.

    Wilson's interval at an effective n: n * m (1 - m) / v, the number of yes/no answers that would be as
    precise (the design effect of Kish 1965). Mean m and variance v include one pseudo-value at 0 and one
    at 1, so data without spread does not look infinitely precise. On 0/1 data it is exactly Wilson's
    interval; on all wins it keeps a width, where a bootstrap has none.
    """
    x = as_values(values)
    if ((x < 0) | (x > 1)).any():
        raise ValueError("values must lie between 0 and 1")
    n = x.size
    if n == 0:
        return wilson(0, 0, level=level)
    m = (x.sum() + 1) / (n + 2)
    v = (((x - m) ** 2).sum() + m**2 + (1 - m) ** 2) / (n + 2)
    effective = float(n * m * (1 - m) / v)
    mean = float(x.mean())
    at = wilson(min(effective, mean * effective), effective, level=level)
    return Interval(mean, at.low, at.high, n, level)


def newcombe(k1: float, n1: int, k2: float, n2: int, *, level: float = 0.95) -> Interval:
    """Interval for the difference of two independent rates, k1 / n1 - k2 / n2.

    Method 10 of Newcombe 1998, "Interval estimation for the difference between independent
    proportions": with Wilson limits l and u of each rate,
    low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2), high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2).
    n is n1 + n2; if either is 0 the estimate is nan with the limits -1 and 1.
    """
    a, b = wilson(k1, n1, level=level), wilson(k2, n2, level=level)
    if n1 == 0 or n2 == 0:
        return Interval(math.nan, -1.0, 1.0, n1 + n2, level)
    d = a.estimate - b.estimate
    low = d - math.hypot(a.estimate - a.low, b.high - b.estimate)
    high = d + math.hypot(a.high - a.estimate, b.estimate - b.low)
    return Interval(d, low, high, n1 + n2, level)


def newcombe_paired(
    both: int, only_first: int, only_second: int, neither: int, *, level: float = 0.95
) -> Interval:
    """Interval for the difference of two rates measured on the same units, first minus second.

    Method 10 of Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data": as `newcombe`, with the term -2 phi (..)(..) under each root for
    the correlation phi of the 2x2 table, whose numerator is continuity-corrected towards 0 when
    positive. A table with an empty margin has phi = 0. An empty table gives nan, -1, 1.
    """
    n = both + only_first + only_second + neither
    if min(both, only_first, only_second, neither) < 0:
        raise ValueError("a cell of the table is negative")
    if n == 0:
        return Interval(math.nan, -1.0, 1.0, 0, level)
    first, second = both + only_first, both + only_second
    a, b = wilson(first, n, level=level), wilson(second, n, level=level)
    cross = float(both * neither - only_first * only_second)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    margins = math.sqrt(first * (n - first) * second * (n - second))
    phi = cross / margins if margins else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    d = (only_first - only_second) / n
    low = d - reach(a.estimate - a.low, b.high - b.estimate)
    high = d + reach(a.high - a.estimate, b.estimate - b.low)
    return Interval(d, low, high, n, level)
