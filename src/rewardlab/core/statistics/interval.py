"""An estimate with its confidence interval, and the interval for a mean of few values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

TINY = 1e-100
"""Spread below this counts as none: its powers underflow."""


def json_number(x: float) -> float | None:
    """A plain float, or None where JSON has no number for it (nan, infinities)."""
    return float(x) if math.isfinite(x) else None


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its two-sided confidence interval.

    With nothing to estimate (n = 0) the estimate is nan; with too little to bound it, the limits are
    infinite, so "contains 0" stays a meaningful question. Both become None in JSON.
    """

    estimate: float
    low: float
    high: float
    n: int
    """Number of units (seeds, prompts, pairs) behind it."""
    level: float = 0.95

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON-safe `{"estimate", "low", "high", "n"}`."""
        return {
            "estimate": json_number(self.estimate),
            "low": json_number(self.low),
            "high": json_number(self.high),
            "n": int(self.n),
        }


def as_values(values: ArrayLike) -> Floats:
    """One dimension of finite floats, or a ValueError: a nan must be excluded and counted by the caller."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"expected one dimension of values, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite")
    return x


def unbounded(estimate: float, n: int, level: float) -> Interval:
    """What too little data says: the estimate, and nothing about where the truth lies."""
    return Interval(estimate, -math.inf, math.inf, n, level)


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's interval for a mean: mean +- t(n-1) * sd / sqrt(n).

    The choice for few units, such as seeds. Fewer than two values bound nothing (infinite limits);
    equal values give an interval of width 0.
    """
    x = as_values(values)
    n = x.size
    if n < 2:
        return unbounded(float(x[0]) if n else math.nan, n, level)
    mean = float(x.mean())
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n, level)
