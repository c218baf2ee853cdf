"""Maps from margins to probabilities, fitted on one split and applied to another.

A margin is score(a) - score(b); a label is the probability that a is better. A map fitted and judged on
the same pairs looks better than it is, so the functions here only fit; what they return is applied elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from rewardlab.core.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Temperature:
    """P(a beats b) = sigmoid(margin / temperature): changes how sure a margin is, never its side."""

    temperature: float

    def __call__(self, margin: ArrayLike) -> Floats:
        """Float[N] probabilities of margins [N]."""
        return np.asarray(special.expit(np.asarray(margin, np.float64) / self.temperature))


@dataclass(frozen=True, slots=True)
class Platt:
    """P = sigmoid(slope * x + intercept), for scores of single answers or pairs with a preferred position."""

    slope: float
    intercept: float

    def __call__(self, margin: ArrayLike) -> Floats:
        """Float[N] probabilities of margins or scores [N]."""
        return np.asarray(special.expit(self.slope * np.asarray(margin, np.float64) + self.intercept))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A non-decreasing map: `values` at `knots`, linear between them, constant outside."""

    knots: Floats
    values: Floats

    def __call__(self, margin: ArrayLike) -> Floats:
        """Float[N] probabilities of margins or scores [N]."""
        return np.asarray(np.interp(np.asarray(margin, np.float64), self.knots, self.values))


def both_orders(margin: ArrayLike, label: ArrayLike) -> tuple[Floats, Floats]:
    """Each pair as (a, b) and as (b, a): margins [2N] and labels [2N].

    For pairs stored as (chosen, rejected): their labels are all 1, which says nothing about an intercept or a
    free shape. Fitted on both orders, a map satisfies p(-m) = 1 - p(m).
    """
    m, y = _checked(margin, label)
    return np.concatenate([m, -m]), np.concatenate([y, 1 - y])


def fit_temperature(margin: ArrayLike, label: ArrayLike) -> Temperature:
    """The temperature T that minimises the mean of -y log sigmoid(m/T) - (1-y) log sigmoid(-m/T).

    (Guo et al. 2017, arXiv 1706.04599.) Convex in 1/T, so the root of the derivative is the answer. Refused
    where no positive finite T is best: margins no better than chance (T infinite), or never wrong (T zero).
    """
    m, y = _checked(margin, label)
    scale = float(np.abs(m).mean())
    if scale == 0:
        raise UserError("Every margin is 0, so no temperature is better than another.", "Use another reward.")
    x = m / scale

    def slope(inverse: float) -> float:
        return float(np.mean((special.expit(inverse * x) - y) * x))

    if slope(0.0) >= 0:
        raise UserError(
            "On these pairs the margins do no better than chance, so the best temperature is infinite.",
            "Do not calibrate this reward: look at its accuracy first.",
        )
    if np.mean(((x > 0) - y) * x) <= 0:  # the slope at infinity, computed without saturation
        raise UserError(
            "No margin is on the wrong side, so the best temperature is 0.",
            "Fit the temperature on more pairs, or on pairs that the reward was not trained on.",
        )
    most = 1.0
    while slope(most) < 0:
        most *= 2
    return Temperature(scale / float(optimize.brentq(slope, 0.0, most, xtol=1e-12)))


def fit_platt(score: ArrayLike, label: ArrayLike) -> Platt:
    """Slope and intercept by maximum likelihood with Platt's smoothed targets, so they are always finite.

    Targets (n1 + 1) / (n1 + 2) for a 1 and 1 / (n0 + 2) for a 0 (Platt 1999, "Probabilistic outputs for
    support vector machines"). (chosen, rejected) pairs go through `both_orders` first.
    """
    x, y = _checked(score, label)
    _two_outcomes(y)
    ones = float(y.sum())
    low, high = 1 / (y.size - ones + 2), (ones + 1) / (ones + 2)
    target = y * high + (1 - y) * low
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / scale

    def loss(w: Floats) -> tuple[float, Floats]:
        logit = w[0] * z + w[1]
        error = special.expit(logit) - target
        value = float(np.mean(np.logaddexp(0, logit) - target * logit))
        return value, np.array([np.mean(error * z), np.mean(error)])

    slope, intercept = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return Platt(float(slope / scale), float(intercept - slope * centre / scale))


def fit_isotonic(score: ArrayLike, label: ArrayLike) -> Isotonic:
    """The non-decreasing step values with the least squared error (pool adjacent violators); ties pooled.

    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability estimates".
    Needs many more pairs than a temperature. (chosen, rejected) pairs go through `both_orders` first.
    """
    x, y = _checked(score, label)
    _two_outcomes(y)
    knots, position, count = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(position, weights=y) / count
    fitted = optimize.isotonic_regression(means, weights=count).x
    return Isotonic(knots, np.clip(fitted, 0.0, 1.0))


def _checked(margin: ArrayLike, label: ArrayLike) -> tuple[Floats, Floats]:
    m, y = np.asarray(margin, np.float64), np.asarray(label, np.float64)
    if m.ndim != 1 or m.shape != y.shape or m.size == 0:
        raise UserError(
            f"Calibration needs one label per margin, got shapes {m.shape} and {y.shape}.",
            "Pass two equally long, non-empty lists.",
        )
    if not np.isfinite(m).all() or not ((y >= 0) & (y <= 1)).all():
        raise UserError(
            "A margin is not finite or a label is outside [0, 1].", "Leave out what was not scored."
        )
    return m, y


def _two_outcomes(y: Floats) -> None:
    if y.min() == y.max():
        raise UserError(
            f"Every label is {y[0]:g}, so there is nothing to fit.",
            "Pass pairs in both orders (both_orders), or labels of both kinds.",
        )
