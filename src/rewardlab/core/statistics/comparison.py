"""Paired comparison of two arms, equivalence, and correction for a family of tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rewardlab.core.statistics.bootstrap import mean_interval
from rewardlab.core.statistics.interval import TINY, Floats, Interval, as_values, t_interval


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference with its interval and the two-sided p-value of "no difference"."""

    interval: Interval
    p: float

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON-safe `{"estimate", "low", "high", "n", "p"}`."""
        return {**self.interval.as_dict(), "p": self.p}


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Result of two one-sided tests."""

    interval: Interval
    """At level 1 - 2 alpha: the arms are equivalent exactly if it lies inside (-margin, margin)."""
    margin: float
    p: float
    """The larger of the two one-sided p-values."""
    equivalent: bool


def _paired(a: ArrayLike, b: ArrayLike | None) -> Floats:
    first = as_values(a)
    if b is None:
        return first
    second = as_values(b)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal lengths, got {first.size} and {second.size}")
    return first - second


def _is_constant(d: Floats) -> bool:
    # Equal differences of decimals (0.3 - 0.1, 0.5 - 0.3) differ in their last bits; below TINY, squares
    # underflow.
    return bool(np.ptp(d) <= max(1e-12 * np.abs(d).max(), TINY))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike | None = None,
    *,
    method: Literal["t", "sign_flip"] = "t",
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Mean of a - b over units measured in both arms (or of `a` itself if it holds the differences).

    `t`: Student's paired interval and test, which agree with each other. `sign_flip`: the p-value of the
    permutation test that flips the sign of each difference (all flips when 2^n <= 9999, else 9999 random
    ones from `seed`) with the interval of `mean_interval`; for few units of odd shape.
    Fewer than two units: p = 1. Equal differences: no spread for a t statistic, so p is that of the
    exact sign-flip test, 2^(1-n), or 1 if all are 0.
    """
    d = _paired(a, b)
    n = d.size
    if n < 2:
        return Difference(t_interval(d, level=level), 1.0)
    if _is_constant(d):
        p = 2.0 ** (1 - n) if d.any() else 1.0
        mean = float(d.mean())
        return Difference(Interval(mean, mean, mean, n, level), p)
    if method == "t":
        return Difference(t_interval(d, level=level), float(stats.ttest_1samp(d, 0).pvalue))
    flips = stats.permutation_test(
        (d,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=max(1, 1_000_000 // n),
        rng=np.random.default_rng(seed),
    )
    return Difference(mean_interval(d, seed=seed, level=level), float(flips.pvalue))


def tost(a: ArrayLike, b: ArrayLike | None = None, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided paired t-tests: is the mean difference inside (-margin, margin)? (Schuirmann 1987.)

    "Not significantly different" is not "the same"; this test rejects "differs by at least margin".
    Fewer than two units: never equivalent. Equal differences: equivalent if inside the margin.
    """
    if margin <= 0:
        raise ValueError(f"an equivalence margin must be positive, got {margin}")
    d = _paired(a, b)
    interval = t_interval(d, level=1 - 2 * alpha)
    if d.size < 2:
        return Equivalence(interval, margin, 1.0, False)
    mean, error = interval.estimate, float(d.std(ddof=1)) / math.sqrt(d.size)
    if _is_constant(d):
        p = 0.0 if abs(mean) < margin else 1.0
    else:
        p = float(stats.t.sf((margin - abs(mean)) / error, d.size - 1))
    return Equivalence(interval, margin, p, p < alpha)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    Sorted ascending, adjusted_i = max over j <= i of min(1, (m - j + 1) * p_j). Rejecting where the
    adjusted value is below alpha bounds the chance of any false rejection in the family by alpha.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a p-value is outside [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(p.size, 0, -1)))
    out = np.empty_like(p)
    out[order] = stepped
    return [float(x) for x in out]
