"""Logistic regression against known answers, and intervals that respect clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit

from rewardlab.core.statistics.logistic import clustered_intervals, fit_logit


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_optimum_is_that_of_a_general_optimiser(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, p = rng.normal(size=(40, 3)) * 2, rng.random(40)
    ridge = np.array([0.5, 1.0, 0.1])

    def loss(b: np.ndarray) -> float:
        z = x @ b
        return float(
            (p * np.logaddexp(0, -z) + (1 - p) * np.logaddexp(0, z)).sum() + (ridge * b**2).sum() / 2
        )

    found = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(fit_logit(x, p, ridge)[0], found, atol=1e-4)


def test_weights_are_counts_of_rows() -> None:
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(30, 2)), rng.random(30)
    counts = rng.integers(0, 3, (4, 30))
    batched = fit_logit(x, p, np.ones(2), counts.astype(float))
    for row, b in zip(counts, batched):
        repeated = np.repeat(np.arange(30), row)
        np.testing.assert_allclose(b, fit_logit(x[repeated], p[repeated], np.ones(2))[0], atol=1e-8)


def test_separable_data_has_a_finite_optimum() -> None:
    x = np.array([[-1.0], [-0.5], [0.5], [1.0]])
    (b,) = fit_logit(x, np.array([0.0, 0, 1, 1]), np.array([1e-3]))[0]
    assert 3 < b < 100
    with pytest.raises(ValueError, match="raise the ridge"):
        fit_logit(x, np.array([0.0, 0, 1, 1]), np.array([1e-300]))


def test_intervals_cover_the_truth_when_rows_of_a_cluster_go_together() -> None:
    """Forty clusters of ten equal rows hold the information of forty rows, not of four hundred."""
    hits = naive = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = np.repeat(rng.normal(size=(40, 1)), 10, axis=0)
        y = np.repeat(rng.random(40) < expit(0.8 * x[::10, 0]), 10).astype(float)
        cluster = np.repeat(np.arange(40), 10)
        hits += 0.8 in clustered_intervals(x, y, np.array([1e-6]), cluster)[0]
        naive += 0.8 in clustered_intervals(x, y, np.array([1e-6]), np.arange(400))[0]
    assert hits / 200 > 0.88
    assert naive / 200 < 0.6
