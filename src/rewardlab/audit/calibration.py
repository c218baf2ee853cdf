"""Does sigmoid(score difference) mean what it says? Reliability, calibration error, Brier score.

A reward model trained with the Bradley-Terry loss claims P(a beats b) = sigmoid(score(a) - score(b)).
The claim is tested on answers put in random order. Put in the order (chosen, rejected), every outcome
would be 1: the order itself would give the label away, a reward that is right 70% of the time and says
so would look wrong by 30 points, and one that is always certain would look best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from rewardlab.core.statistics import Interval, mean_interval, wilson

Floats = NDArray[np.float64]
CHUNK = 1_000_000
"""Values drawn at once; bounds the memory."""


@dataclass(frozen=True)
class Forecast:
    """P predictions about pairs in random order."""

    predicted: Floats
    """Float[P]: claimed probability that the first answer is better."""
    outcome: Floats
    """Float[P]: 1 if it is, 0 if not; a soft label stays a fraction."""
    bins: tuple[NDArray[np.intp], ...]
    """Equal-mass bins: positions in order of `predicted`."""


def forecast(margin: Floats, label: Floats, *, seed: int, bins: int = 10) -> Forecast:
    """Predictions sigmoid(+-margin) with the sign of each pair drawn at random, and what happened.

    margin: score(chosen) - score(rejected); label: probability that chosen is better. At most `bins`
    equal-mass bins, fewer if they would hold under 20 pairs.
    """
    first_is_chosen = np.random.default_rng(seed).random(margin.size) < 0.5
    predicted = special.expit(np.where(first_is_chosen, margin, -margin))
    outcome = np.where(first_is_chosen, label, 1 - label)
    count = max(1, min(bins, margin.size // 20))
    return Forecast(predicted, outcome, tuple(np.array_split(np.argsort(predicted, kind="stable"), count)))


def reliability(f: Forecast, *, level: float = 0.95) -> list[dict[str, float | int]]:
    """Mean prediction and observed rate with Wilson's interval in each bin."""
    rows = []
    for positions in f.bins:
        at = wilson(float(f.outcome[positions].sum()), positions.size, level=level)
        predicted = float(f.predicted[positions].mean())
        rows.append(
            {"predicted": predicted, "observed": at.estimate, "low": at.low, "high": at.high, "n": at.n}
        )
    return rows


def brier(f: Forecast, *, seed: int, level: float = 0.95) -> Interval:
    """mean (predicted - outcome)^2 (Brier 1950): 0 is perfect, 1/4 is what always saying 1/2 gets."""
    return mean_interval((f.predicted - f.outcome) ** 2, seed=seed, level=level)


def ece(f: Forecast, *, seed: int, level: float = 0.95, resamples: int = 2000) -> Interval:
    """Expected calibration error: sum over bins of (n_b / n) |observed_b - predicted_b|.

    (Guo et al. 2017, arXiv 1706.04599.) The plug-in number is above 0 even for a perfect reward, since
    noise in a bin counts as error. Its interval is the bootstrap spread of that number around it, with
    the bins held fixed: how much it would move on other pairs, not where the true error lies. For that
    read `debiased_ece`.
    """
    gap = f.outcome - f.predicted
    n = gap.size
    by_bin = np.zeros((n, len(f.bins)))
    for b, positions in enumerate(f.bins):
        by_bin[positions, b] = gap[positions]
    estimate = float(np.abs(by_bin.sum(0)).sum() / n)
    rng = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        picks = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        times_drawn = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
        replicates[start : start + size] = np.abs(times_drawn @ by_bin).sum(1) / n
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]) - replicates.mean()
    return Interval(estimate, max(0.0, estimate + float(low)), estimate + float(high), n, level)


def debiased_ece(f: Forecast, *, seed: int, level: float = 0.95, draws: int = 4000) -> tuple[Interval, float]:
    """Median-unbiased calibration error with its interval, and the p-value of "perfectly calibrated".

    The inverse of a parametric bootstrap (test inversion: Carpenter 1999, JRSS B 61). A true error of
    size t, spread over the bins like the observed one, would show up as
    ECE(t) = sum_b w_b |t u_b + e_b|, u_b = |gap_b| / ECE, e_b normal with the standard error of bin b
    (the larger of the observed one and, for hard labels, the one that the predictions claim).
    The estimate is the t whose median ECE(t) is the observed number, the limits are the t that put it at
    the upper and lower tail, and p is the chance that ECE(0) reaches it. A perfect reward gets an
    interval from 0; a badly calibrated one loses nothing, as it would by subtracting the error that a
    perfect reward shows. Kumar et al. 2019 (arXiv 1909.10155) show the bias that this removes.
    In simulations with 300 to 2000 pairs the 95% interval covered 90 to 97 times in 100.
    """
    n = f.predicted.size
    hard = bool(np.isin(f.outcome, (0, 1)).all())
    weight, gap, error = np.empty((3, len(f.bins)))
    for b, positions in enumerate(f.bins):
        residual = f.outcome[positions] - f.predicted[positions]
        m = positions.size
        weight[b], gap[b] = m / n, residual.mean()
        spread = residual.var(ddof=1) if m > 1 else 0.25
        if hard:
            spread = max(spread, float((f.predicted[positions] * (1 - f.predicted[positions])).mean()))
        # A bin in which all outcomes agree is not free of noise: half an odd outcome is its floor.
        error[b] = np.sqrt(max(spread, 0.5 / (m + 1)) / m)
    observed = float(weight @ np.abs(gap))
    profile = np.abs(gap) / observed if observed else np.ones_like(gap)
    half = np.random.default_rng(seed).standard_normal((draws // 2, len(f.bins))) * error
    noise = np.concatenate([half, -half])

    def excess(tail: float) -> Callable[[float], float]:
        def at(size: float) -> float:
            return float(np.quantile(np.abs(size * profile + noise) @ weight, tail)) - observed

        return at

    most = observed + 10 * float(error.max())
    sizes = []
    for tail in ((1 + level) / 2, 0.5, (1 - level) / 2):
        gap_at = excess(tail)
        sizes.append(0.0 if gap_at(0.0) >= 0 else float(optimize.brentq(gap_at, 0.0, most, xtol=1e-6)))
    # Outcomes luckier than a perfect reward expects would leave no t at all; yet an overall bias within
    # its own standard error cannot be excluded.
    floor = float(stats.norm.ppf(0.5 + level / 2) * np.hypot.reduce(weight * error))
    p = float((np.abs(noise) @ weight >= observed).mean())
    return Interval(sizes[1], sizes[0], max(sizes[2], floor), n, level), p
