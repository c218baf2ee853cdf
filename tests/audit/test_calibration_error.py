"""Calibration error on forecasts whose true error is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from rewardlab.audit.calibration import brier, debiased_ece, ece, forecast, reliability


def draw(n: int, seed: int, sharpen: float) -> tuple[np.ndarray, np.ndarray]:
    """Margins that claim `sharpen` times the true log-odds, signed towards the labelled winner."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, n)
    won = rng.random(n) < special.expit(truth)
    return np.where(won, truth, -truth) * sharpen, np.ones(n)


def true_error(sharpen: float) -> float:
    truth = np.random.default_rng(0).normal(0, 1.5, 200_000)
    return float(np.abs(special.expit(sharpen * truth) - special.expit(truth)).mean())


def test_plain_ece_calls_a_perfect_reward_wrong_and_the_debiased_one_does_not() -> None:
    plain, debiased, p = [], [], []
    for seed in range(150):
        f = forecast(*draw(400, seed, 1.0), seed=seed)
        plain.append(ece(f, seed=seed, resamples=50).estimate)
        interval, p_value = debiased_ece(f, seed=seed, draws=1000)
        debiased.append(interval)
        p.append(p_value)
    assert np.mean(plain) > 0.03
    assert np.median([d.estimate for d in debiased]) < 0.2 * np.median(plain)
    assert np.mean([d.low == 0 for d in debiased]) >= 0.94
    assert np.mean(np.array(p) < 0.05) <= 0.09  # its level is 0.05; binomial sd here is 0.018


@pytest.mark.parametrize("sharpen", [0.3, 1.6, 3.0])
def test_the_debiased_interval_covers_the_true_error(sharpen: float) -> None:
    truth = true_error(sharpen)
    found = [
        debiased_ece(forecast(*draw(600, seed, sharpen), seed=seed), seed=seed, draws=1000)[0]
        for seed in range(150)
    ]
    assert np.mean([truth in i for i in found]) >= 0.87  # nominal 0.95, binomial sd 0.02
    assert np.mean([i.estimate for i in found]) == pytest.approx(truth, abs=0.01)


def test_random_order_is_what_makes_calibration_visible() -> None:
    """With chosen always first every outcome is 1 and a calibrated reward would look wrong."""
    margin, label = draw(4000, 0, 1.0)
    f = forecast(margin, label, seed=1)
    assert 0.45 < f.outcome.mean() < 0.55
    assert np.abs(f.outcome.mean() - f.predicted.mean()) < 0.02
    assert 1 - special.expit(margin).mean() > 0.25


def test_reliability_bins_hold_equal_mass_and_cover_the_diagonal() -> None:
    rows = reliability(forecast(*draw(1000, 3, 1.0), seed=0))
    assert [r["n"] for r in rows] == [100] * 10
    assert [r["predicted"] for r in rows] == sorted(r["predicted"] for r in rows)
    assert sum(r["low"] <= r["predicted"] <= r["high"] for r in rows) >= 8


def test_ece_and_brier_by_hand() -> None:
    """One bin: predicted sigmoid(0) = 1/2 throughout, three of four outcomes in favour of the first."""
    f = forecast(np.zeros(4), np.array([1.0, 1.0, 1.0, 1.0]), seed=0)
    assert ece(f, seed=0).estimate == pytest.approx(abs(f.outcome.mean() - 0.5))
    assert brier(f, seed=0).estimate == pytest.approx(0.25)


def test_a_certain_and_right_reward_is_not_called_miscalibrated() -> None:
    interval, p = debiased_ece(forecast(np.full(300, 50.0), np.ones(300), seed=0), seed=0)
    assert interval.low == 0.0
    assert interval.high > 0.0
    assert p > 0.5
