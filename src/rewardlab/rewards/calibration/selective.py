"""Selective prediction: answer only where confident enough, with a bound on the error rate of the answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rewardlab.core.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """Answer where confidence >= threshold; the risk of the answers is at most `bound`, with 1 - delta."""

    threshold: float
    """Infinite if no threshold could be certified: answer nothing."""
    bound: float
    """Upper limit of the risk at this threshold; nan if there is none."""
    coverage: float
    """Share of the calibration rows that it answers."""

    @property
    def feasible(self) -> bool:
        """Whether any threshold was certified."""
        return math.isfinite(self.threshold)


def risk_coverage(confidence: ArrayLike, error: ArrayLike) -> tuple[Floats, Floats]:
    """Coverage and risk at every threshold, from the most confident rows to all; tied rows enter together."""
    counts, errors, _, n = _cumulative(confidence, error)
    return counts / n, errors / counts


def aurc(confidence: ArrayLike, error: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean over rows of the risk at the row's own confidence.

    Lower is better; confidence without information gives the overall error rate in expectation.
    """
    counts, errors, _, n = _cumulative(confidence, error)
    return float(np.diff(counts, prepend=0.0) @ (errors / counts) / n)


def sgr(
    confidence: ArrayLike,
    error: ArrayLike,
    *,
    risk: float,
    delta: float,
    union: Literal["search", "candidates"] = "search",
    candidates: int = 32,
) -> Selection:
    """The threshold with the largest coverage whose risk is at most `risk` with probability 1 - delta.

    Selection with guaranteed risk (Geifman and El-Yaniv 2017, arXiv 1705.08500). With k errors in m answered
    rows, the bound b solves P(Bin(m, b) <= k) = delta / K (Clopper and Pearson):
    b = Beta^-1(1 - delta / K; k + 1, m - k). A threshold is certified if b <= risk. `union` says which K
    bounds are computed. `search`: the paper's binary search over the distinct confidences, with
    K = ceil(log2(distinct)) + 1; the best certified step is returned, not the last. Where it looks depends on
    the errors seen before, so a union over K steps is not a full proof, though it holds in simulation.
    `candidates`: evenly spaced ranks fixed in advance, K = that many, all tested; here the union is exact.

    confidence [N]; error [N] is 0 or 1. Rows with the threshold's confidence are answered all or none. The
    rows must not have been used to train or calibrate the confidence.
    """
    if not 0 < risk < 1 or not 0 < delta < 1 or candidates < 1:
        raise UserError(
            f"risk={risk}, delta={delta}, candidates={candidates} do not make a guarantee.",
            "Use risk and delta between 0 and 1 and at least one candidate.",
        )
    counts, errors, thresholds, n = _cumulative(confidence, error)

    def bound_for(tests: int) -> Callable[[int], float]:
        def bound(at: int) -> float:
            k, m = errors[at], counts[at]
            return 1.0 if k == m else float(stats.beta.ppf(1 - delta / tests, k + 1, m - k))

        return bound

    best: tuple[int, float] | None = None
    if union == "candidates":
        # Fixed ranks; two that fall into one run of ties are one test more than needed, which is safe.
        ranks = np.unique(np.ceil(np.linspace(n / candidates, n, min(candidates, n))))
        bound = bound_for(ranks.size)
        for at in np.unique(np.searchsorted(counts, ranks)):
            b = bound(int(at))
            if b <= risk:
                best = int(at), b
    else:
        low, high = 0, counts.size - 1
        bound = bound_for(math.ceil(math.log2(counts.size)) + 1)
        while low <= high:
            middle = (low + high) // 2
            b = bound(middle)
            if b <= risk:
                best, low = (middle, b), middle + 1
            else:
                high = middle - 1
    if best is None:
        return Selection(math.inf, math.nan, 0.0)
    at, b = best
    return Selection(float(thresholds[at]), b, float(counts[at] / n))


def _cumulative(confidence: ArrayLike, error: ArrayLike) -> tuple[Floats, Floats, Floats, int]:
    """Rows answered, errors among them and threshold at each distinct confidence, highest first."""
    c, e = np.asarray(confidence, np.float64), np.asarray(error, np.float64)
    if c.ndim != 1 or c.shape != e.shape or c.size == 0:
        raise UserError(
            f"Selective prediction needs one error per confidence, got shapes {c.shape} and {e.shape}.",
            "Pass two equally long, non-empty lists.",
        )
    if not np.isfinite(c).all() or not np.isin(e, (0, 1)).all():
        raise UserError(
            "A confidence is not finite or an error is neither 0 nor 1.", "Drop ties and failures."
        )
    values, position, count = np.unique(-c, return_inverse=True, return_counts=True)
    wrong = np.bincount(position, weights=e, minlength=values.size)
    return np.cumsum(count).astype(np.float64), np.cumsum(wrong), -values, c.size
