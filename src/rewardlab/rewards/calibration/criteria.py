"""Do the criteria of a rubric follow human judgement? Correlation, weights and what each one adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from rewardlab.core.errors import UserError
from rewardlab.core.statistics import Difference, Interval, holm, paired_difference
from rewardlab.data.filters import fold_of

Floats = NDArray[np.float64]
Predictor = Callable[[Floats], Floats]
"""Criteria scores [M, C] -> predicted human score [M]."""


@dataclass(frozen=True)
class Criterion:
    """One criterion against human labels that it was not designed on."""

    name: str
    correlation: Interval
    """Spearman's rank correlation; nan for a criterion that never varies."""
    p: float
    p_holm: float
    """Adjusted over all criteria of the call."""
    keep: bool


def spearman(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> tuple[Interval, float]:
    """Spearman's rank correlation, its interval and two-sided p-value (average ranks for ties).

    tanh(atanh(r) +- z * sqrt((1 + r^2 / 2) / (n - 3))) (Bonett and Wright 2000, "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations"). Fewer than 4 rows, or a constant side: nan,
    limits -1 and 1, p = 1.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = a.size
    if n < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Interval(math.nan, -1.0, 1.0, n, level), 1.0
    found = stats.spearmanr(a, b)
    r = float(found.statistic)
    inside = max(-1 + 1e-12, min(1 - 1e-12, r))
    half = float(stats.norm.ppf(0.5 + level / 2)) * math.sqrt((1 + inside**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(inside) - half), math.tanh(math.atanh(inside) + half)
    return Interval(r, low, high, n, level), float(found.pvalue)


def validate_criteria(
    scores: ArrayLike,
    human: ArrayLike,
    names: Sequence[str],
    *,
    alpha: float = 0.05,
    least: float = 0.0,
    level: float = 0.95,
) -> list[Criterion]:
    """Each criterion's correlation with held-out human labels, and whether to keep it.

    scores [N, C], human [N]. A nan is a criterion that gave no score there: the row is left out for that
    criterion alone, and `correlation.n` counts the rest. Keep: the correlation is above `least` and its Holm
    p-value over all C criteria is below alpha. A criterion that correlates negatively is never kept: turning
    it round after seeing the labels is a new criterion, which needs new labels.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(human, np.float64)
    if x.ndim != 2 or y.shape != (len(x),) or len(names) != x.shape[1]:
        raise UserError(
            f"Criteria need scores [rows, criteria], a label per row, a name per criterion; got {x.shape}, "
            f"{y.shape} and {len(names)} names.",
            "Check that rows and names match.",
        )
    if not np.isfinite(y).all():
        raise UserError("A human label is not a finite number.", "Leave out rows without a label.")
    found = [spearman(c[np.isfinite(c)], y[np.isfinite(c)], level=level) for c in x.T]
    adjusted = holm([p for _, p in found])
    return [
        Criterion(name, r, p, q, bool(r.estimate > least and q < alpha))
        for name, (r, p), q in zip(names, found, adjusted, strict=True)
    ]


def fit_nonnegative(scores: Floats, human: Floats) -> Predictor:
    """Least squares with an intercept and weights >= 0, so that no criterion is rewarded for being low."""
    centre, level = scores.mean(0), float(human.mean())
    weights, _ = optimize.nnls(scores - centre, human - level)
    return lambda x: (x - centre) @ weights + level


def fit_ridge(
    scores: Floats,
    human: Floats,
    *,
    seed: int,
    penalties: Sequence[float] = (0.01, 0.1, 1, 10, 100),
    folds: int = 5,
) -> Predictor:
    """Ridge regression on standardised criteria, penalty (relative to N) by cross-validation on these rows.

    Minimises |y - Z w|^2 / N + penalty * |w|^2; a criterion that never varies gets weight 0.
    """
    fold = fold_of(len(scores), folds, seed=seed)

    def error(penalty: float) -> float:
        total = 0.0
        for k in range(folds):
            predict = _ridge(scores[fold != k], human[fold != k], penalty)
            total += float(((predict(scores[fold == k]) - human[fold == k]) ** 2).sum())
        return total

    return _ridge(scores, human, min(penalties, key=error))


def _ridge(scores: Floats, human: Floats, penalty: float) -> Predictor:
    centre, level, spread = scores.mean(0), float(human.mean()), scores.std(0)
    scale = np.where(spread > 0, spread, np.inf)
    z = (scores - centre) / scale
    gram = z.T @ z / len(z) + penalty * np.eye(z.shape[1])
    weights = np.linalg.solve(gram, z.T @ (human - level) / len(z))
    return lambda x: (x - centre) / scale @ weights + level


def fit_pair_weights(differences: ArrayLike, label: ArrayLike, *, penalty: float = 0.01) -> Floats:
    """Weights w [C] >= 0 of P(a beats b) = sigmoid(w . differences), a logistic regression.

    differences [P, C]: criteria of a minus criteria of b; label [P] in [0, 1]. Minimises the mean log loss
    + penalty / 2 * |w|^2. No intercept: swapping the answers must turn the prediction round.
    """
    d, y = np.asarray(differences, np.float64), np.asarray(label, np.float64)
    if d.ndim != 2 or y.shape != (len(d),) or penalty < 0:
        raise UserError(
            f"Pair weights need differences [pairs, criteria], one label per pair and a penalty >= 0; got "
            f"{d.shape}, {y.shape} and {penalty}.",
            "Check the shapes.",
        )

    def loss(w: Floats) -> tuple[float, Floats]:
        logit = d @ w
        value = float(np.mean(np.logaddexp(0, logit) - y * logit) + penalty / 2 * w @ w)
        return value, d.T @ (special.expit(logit) - y) / len(d) + penalty * w

    bounds = [(0, None)] * d.shape[1]
    return np.asarray(optimize.minimize(loss, np.zeros(d.shape[1]), jac=True, bounds=bounds).x)


@dataclass(frozen=True)
class Ablation:
    """What leaving one criterion out costs."""

    name: str
    rise: Difference
    """Squared error without it minus with it, per row; above 0: it helps."""
    p_holm: float


def ablate(
    scores: ArrayLike,
    human: ArrayLike,
    names: Sequence[str],
    fit: Callable[[Floats, Floats], Predictor],
    *,
    seed: int,
    folds: int = 5,
) -> list[Ablation]:
    """Leave each criterion out, refit, and compare the cross-validated errors row by row on the same folds.

    Two criteria that say the same each look useless, since the other stands in: drop one at a time. The
    rows' errors share fitted models, so the paired intervals are approximate (they ignore that).
    """
    x, y = np.asarray(scores, np.float64), np.asarray(human, np.float64)
    if x.ndim != 2 or x.shape[1] < 2 or len(names) != x.shape[1] or y.shape != (len(x),):
        raise UserError(
            f"An ablation needs two criteria or more with a name each, got {x.shape}.", "Add one."
        )
    fold = fold_of(len(x), folds, seed=seed)

    def errors(columns: list[int]) -> Floats:
        out = np.empty(len(x))
        for k in range(folds):
            predict = fit(x[fold != k][:, columns], y[fold != k])
            out[fold == k] = (predict(x[fold == k][:, columns]) - y[fold == k]) ** 2
        return out

    every = list(range(x.shape[1]))
    full = errors(every)
    rises = [paired_difference(errors([c for c in every if c != left]), full) for left in every]
    adjusted = holm([r.p for r in rises])
    return [Ablation(name, r, q) for name, r, q in zip(names, rises, adjusted, strict=True)]
