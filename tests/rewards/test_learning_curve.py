"""A learning curve finds its ceiling with an honest interval, and says when the data cannot."""

from __future__ import annotations

import numpy as np
import pytest

from rewardlab.core.errors import UserError
from rewardlab.rewards.calibration import fit_learning_curve

SIZES = np.array([100, 200, 400, 800, 1600, 3200, 6400])


def truth(n: np.ndarray) -> np.ndarray:
    return 0.85 - 1.5 * np.asarray(n, float) ** -0.4


def measured(seed: int, noise: float, seeds: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return truth(SIZES) + noise * (rng.normal(size=(seeds, 7)) + 0.5 * rng.normal(size=(seeds, 1)))


def test_the_curve_and_the_number_of_pairs_are_found() -> None:
    curve = fit_learning_curve(SIZES, measured(0, 0.001), seed=0)
    assert 0.85 in curve.ceiling
    assert curve.ceiling.high - curve.ceiling.low < 0.05
    needed = curve.pairs_for(0.8)
    exact = (1.5 / 0.05) ** (1 / 0.4)
    assert needed.identified
    assert exact in needed.pairs
    assert needed.pairs.estimate == pytest.approx(exact, rel=0.2)
    assert curve.at(800).estimate == pytest.approx(truth(800), abs=0.005)


def test_what_the_data_cannot_say() -> None:
    curve = fit_learning_curve(SIZES, measured(1, 0.001), seed=0)
    above = curve.pairs_for(0.95)
    assert not above.identified
    assert "ceiling" in above.reason
    assert np.isinf(above.pairs.high)
    far = curve.pairs_for(0.84)
    assert not far.identified
    assert far.reason
    flat = fit_learning_curve(SIZES, 0.6 + 0.01 * np.random.default_rng(2).normal(size=(5, 7)), seed=0)
    assert flat.pairs_for(0.6).reason == "the curve does not rise beyond its noise"
    noisy = fit_learning_curve(SIZES[:4], measured(3, 0.05, seeds=3)[:, :4], seed=0)
    assert not noisy.pairs_for(0.8).identified


def test_intervals_cover() -> None:
    ceiling = at = 0
    for seed in range(60):
        curve = fit_learning_curve(SIZES, measured(100 + seed, 0.004), seed=seed, draws=400)
        ceiling += 0.85 in curve.ceiling
        at += float(truth(np.array(1000))) in curve.at(1000)
    assert ceiling >= 51
    assert at >= 51


def test_too_little_is_refused() -> None:
    with pytest.raises(UserError, match="4 sizes and 3 seeds"):
        fit_learning_curve(SIZES[:3], measured(0, 0.01)[:, :3], seed=0)
    with pytest.raises(UserError, match="outside"):
        fit_learning_curve(SIZES, 100 * measured(0, 0.01), seed=0)
