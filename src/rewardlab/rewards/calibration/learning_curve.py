"""Accuracy over the number of training pairs: how many more are worth labelling?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardlab.core.errors import UserError
from rewardlab.core.statistics import Interval

Floats = NDArray[np.float64]
EXPONENTS = np.geomspace(0.05, 2.0, 400)
"""Where c is looked for, 1% apart: coarser steps would show as certainty about the ceiling."""


@dataclass(frozen=True)
class PairsNeeded:
    """How many training pairs reach a target, if the data can say."""

    target: float
    pairs: Interval
    """Limits are infinite where the curve may never get there."""
    identified: bool
    reason: str
    """Why not; empty if identified."""


@dataclass(frozen=True)
class LearningCurve:
    """accuracy(n) = a - b * n^-c with the spread of its fit over seeds."""

    ceiling: Interval
    """a: where the curve ends, if it goes on like this."""
    draws: Floats
    """[1 + D, 3]: a, b, c of the data first, then of D redraws of the means."""
    largest: float
    """Most training pairs measured."""
    seeds: int
    level: float

    def at(self, n: float) -> Interval:
        """Accuracy with n pairs; far beyond `largest` it is the power law that speaks, not the data."""
        a, b, c = self.draws.T
        return _spread(a - b * n**-c, self.seeds, self.level)

    def pairs_for(self, target: float, *, reach: float = 10.0) -> PairsNeeded:
        """n with a - b * n^-c = target, so n = (b / (a - target))^(1 / c).

        Not identified: a curve that does not rise; an interval whose upper end is infinite, since the ceiling
        may lie below the target; or one that ends beyond `reach` times the largest size measured.
        """
        a, b, c = self.draws.T
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            n = np.where(a > target, (b / np.maximum(a - target, 0)) ** (1 / c), np.inf)
        pairs = _spread(np.maximum(n, 1.0), self.seeds, self.level)
        rise = _spread(self._rise(), self.seeds, self.level)
        if not rise.low > 0:
            reason = "the curve does not rise beyond its noise"
        elif not math.isfinite(pairs.high):
            reason = "the ceiling may lie below the target"
        elif pairs.high > reach * self.largest:
            reason = f"the interval ends beyond {reach:g} times the largest size measured"
        else:
            return PairsNeeded(target, pairs, True, "")
        return PairsNeeded(target, pairs, False, reason)

    def _rise(self) -> Floats:
        _, b, c = self.draws.T
        return np.asarray(b * ((self.largest / 4) ** -c - self.largest**-c))


def fit_learning_curve(
    sizes: ArrayLike, accuracy: ArrayLike, *, seed: int, level: float = 0.95, draws: int = 2000
) -> LearningCurve:
    """Least squares of a - b * n^-c to the mean over seeds, with 0 <= b, a <= 1 and c in [0.05, 2].

    sizes [S], at least 4 distinct; accuracy [seeds, S], at least 3 seeds. For each c the best a and b are
    closed-form. The interval refits means redrawn from a multivariate t with the seeds' covariance / seeds,
    which keeps how a seed's sizes move together and widens for few seeds.
    """
    n, y = np.asarray(sizes, np.float64), np.asarray(accuracy, np.float64)
    if n.ndim != 1 or y.ndim != 2 or y.shape[1] != n.size or np.unique(n).size < 4 or len(y) < 3:
        raise UserError(
            f"A learning curve needs 4 sizes and 3 seeds or more, got sizes {n.shape}, accuracy {y.shape}.",
            "Train on more sizes, with more seeds.",
        )
    if (n < 1).any() or not ((y >= 0) & (y <= 1)).all():
        raise UserError(
            "A size is below 1 or an accuracy outside [0, 1].", "Check the order of the arguments."
        )
    k = len(y)
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((draws, k)) / math.sqrt(k * (k - 1))
    tails = np.sqrt((k - 1) / rng.chisquare(k - 1, (draws, 1)))
    redrawn = y.mean(0) + tails * (weights @ (y - y.mean(0)))
    fits = _power_laws(n, np.vstack([y.mean(0), redrawn]))
    return LearningCurve(_spread(fits[:, 0], k, level), fits, float(n.max()), k, level)


def _power_laws(n: Floats, y: Floats) -> Floats:
    """[D, 3] best a, b, c of each row of y [D, S]."""
    best, error = np.empty((len(y), 3)), np.full(len(y), np.inf)
    for c in EXPONENTS:
        x = n**-c
        dx = x - x.mean()
        b = np.maximum(0.0, -(y @ dx) / (dx @ dx))
        a = y.mean(1) + b * x.mean()
        # On the edge a = 1 the best b is the regression of 1 - y on x through the origin.
        over = a > 1
        b = np.where(over, np.maximum(0.0, ((1 - y) @ x) / (x @ x)), b)
        a = np.where(over, 1.0, a)
        squares = ((a[:, None] - b[:, None] * x - y) ** 2).sum(1)
        better = squares < error
        best[better] = np.column_stack([a, b, np.full(len(y), c)])[better]
        error[better] = squares[better]
    return best


def _spread(values: Floats, seeds: int, level: float) -> Interval:
    """The first value with percentiles of the others."""
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Interval(float(values[0]), float(low), float(high), seeds, level)
