"""Logistic regression of soft labels, and standard errors when rows come in clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from rewardlab.core.statistics.interval import Floats, Interval

Ints = NDArray[np.intp]

MOST_STEPS = 100
LONGEST_STEP = 2.0
"""Bound on the change of a coefficient per step: far from the optimum, where the likelihood is flat, a full
Newton step overshoots."""


def fit_logit(
    x: Floats, p: Floats, ridge: Floats, weights: Floats | None = None, *, start: Floats | None = None
) -> Floats:
    """Float[B, K]: coefficients that maximise the penalised log-likelihood under each row of weights.

    maximise sum_i w_i [p_i log sigma(x_i b) + (1 - p_i) log sigma(-x_i b)] - 1/2 sum_k ridge_k b_k^2

    x Float[N, K], p Float[N] in [0, 1], weights Float[B, N] (bootstrap counts; one row of ones where left
    out), ridge Float[K]. Newton's method with a bounded step; a positive ridge makes the optimum unique and
    finite even where the data can be separated. ValueError where it is not found in 100 steps.
    """
    w = np.ones((1, len(p))) if weights is None else weights
    b = np.zeros((len(w), x.shape[1])) if start is None else start.copy()
    outer = None if len(w) == 1 else (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)  # [N, K K]
    for _ in range(MOST_STEPS):
        mean = expit(b @ x.T)  # [B, N]
        gradient = (w * (p - mean)) @ x - ridge * b
        spread = w * mean * (1 - mean)
        flat = (x.T * spread[0]) @ x if outer is None else spread @ outer
        curvature = flat.reshape(len(w), x.shape[1], x.shape[1]) + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        size = np.abs(step).max(axis=1, keepdims=True)
        b += step * np.minimum(1.0, LONGEST_STEP / np.maximum(size, 1e-300))
        if size.max() < 1e-8 * max(1.0, float(np.abs(b).max())):
            return b
    raise ValueError(f"logistic regression did not converge in {MOST_STEPS} steps; raise the ridge")


def clustered_intervals(
    x: Floats, p: Floats, ridge: Floats, clusters: Ints, *, level: float = 0.95
) -> list[Interval]:
    """Coefficients of `fit_logit` with intervals that allow rows of one cluster to depend on each other.

    variance = H^-1 (G/(G-1) sum_g s_g s_g') H^-1, with H the negative Hessian and s_g the score summed over
    cluster g (Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models"); limits
    at Student's t with G - 1 degrees of freedom, n = G clusters.
    """
    b = fit_logit(x, p, ridge)[0]
    mean = expit(x @ b)
    hessian = (x.T * (mean * (1 - mean))) @ x + np.diag(ridge)
    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    scores = np.zeros((count, x.shape[1]))
    np.add.at(scores, index, x * (p - mean)[:, None])
    bread = np.linalg.inv(hessian)
    free = max(count - 1, 1)
    error = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread) * count / free)
    half = float(stats.t.ppf(0.5 + level / 2, free)) * error
    return [Interval(float(v), float(v - h), float(v + h), count, level) for v, h in zip(b, half)]
