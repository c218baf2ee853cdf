"""A calibrated margin means what it says on other pairs, keeps its order, and bad fits are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.rewards.calibration import (
    Calibrated,
    CalibratedSettings,
    both_orders,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)


def pairs(n: int, seed: int, sharpness: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margins that are `sharpness` times too large, sampled labels and true probabilities."""
    rng = np.random.default_rng(seed)
    truth = special.expit(rng.normal(size=n))
    return sharpness * special.logit(truth), (rng.random(n) < truth).astype(float), truth


def log_loss(p: np.ndarray, y: np.ndarray) -> float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def test_maps_fitted_on_one_split_come_close_to_the_truth_on_another() -> None:
    margin, label, _ = pairs(4000, 0)
    other, other_label, truth = pairs(4000, 1)
    temperature = fit_temperature(margin, label)
    assert temperature.temperature == pytest.approx(4.0, rel=0.15)
    maps = (temperature, fit_platt(margin, label), fit_isotonic(margin, label))
    for fitted, close in zip(maps, (0.02, 0.02, 0.06)):
        assert np.abs(fitted(other) - truth).mean() < close
        assert log_loss(fitted(other), other_label) < log_loss(special.expit(other), other_label) - 0.1


def test_the_temperature_is_the_minimum_and_does_not_care_which_answer_comes_first() -> None:
    margin, label, _ = pairs(500, 2)
    t = fit_temperature(margin, label).temperature
    for factor in (0.98, 1.02):
        assert log_loss(special.expit(margin / t), label) < log_loss(
            special.expit(margin / t / factor), label
        )
    signed = np.where(label == 1, margin, -margin)
    assert fit_temperature(signed, np.ones(500)).temperature == pytest.approx(t, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(20, 200))
def test_maps_never_turn_the_order_round(seed: int, n: int) -> None:
    margin, label, _ = pairs(n, seed)
    margin, label = both_orders(np.round(margin), label)
    x = np.linspace(-20, 20, 101)
    for fitted in (fit_isotonic(margin, label), fit_platt(margin, label)):
        p = fitted(x)
        assert (np.diff(p) * (1 if p[-1] >= p[0] else -1) >= 0).all()
        assert (p >= 0).all()
        assert (p <= 1).all()
        assert p + fitted(-x) == pytest.approx(1, abs=1e-4)
    assert (np.diff(fit_isotonic(margin, label)(x)) >= 0).all()


def test_isotonic_pools_ties_and_violators() -> None:
    fitted = fit_isotonic([0, 0, 1, 2, 3], [0, 1, 1, 0, 1])
    assert fitted([0, 1, 2, 3]) == pytest.approx([0.5, 0.5, 0.5, 1])
    assert fitted([-9, 9]) == pytest.approx([0.5, 1])


def test_platt_stays_finite_on_separable_scores() -> None:
    fitted = fit_platt([-2, -1, 1, 2], [0, 0, 1, 1])
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert fitted([2])[0] < 0.95


@pytest.mark.parametrize(
    ("margin", "label", "says"),
    [
        ([1.0, 2.0], [1, 1], "wrong side"),
        ([1.0, -2.0], [1, 1], "chance"),
        ([0.0, 0.0], [1, 1], "Every margin is 0"),
        ([1.0], [1, 1], "one label per margin"),
        ([np.nan], [1], "not finite"),
        ([1.0], [2], "outside"),
    ],
)
def test_a_temperature_that_does_not_exist_is_refused(
    margin: list[float], label: list[float], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        fit_temperature(margin, label)


def test_pairs_in_one_order_cannot_fit_an_intercept() -> None:
    for fit in (fit_platt, fit_isotonic):
        with pytest.raises(UserError, match="nothing to fit"):
            fit([1.0, -1.0], [1, 1])


class Fixed:
    name = "fixed"

    def score(self, rollouts: object) -> list[Score]:
        return [
            Score(3.0, parts={"a": 1.0}, tokens=(0.0, 2.0), uncertainty=1.0),
            Score(-1.0),
            Score.abstain("unsure"),
            Score.error("broken"),
        ]


class Names:
    def reward(self, name: str) -> Fixed:
        assert name == "fixed"
        return Fixed()


def test_a_calibrated_reward_scales_values_and_passes_on_what_has_none() -> None:
    reward = CalibratedSettings(reward="fixed", temperature=2.0).build("scaled", Names())  # type: ignore[arg-type]
    rollouts = [Rollout(Prompt((Message("user", "?"),)), Tokens((0,), (False,)), "")] * 4
    first, second, third, fourth = reward.score(rollouts)
    assert (first.value, first.tokens, first.uncertainty) == (1.5, (0.0, 1.0), 0.5)
    assert first.parts == {"a": 1.0, "raw": 3.0}
    assert second.value == -0.5
    assert (third.status, fourth.status, fourth.reason) == ("abstain", "error", "broken")
    with pytest.raises(UserError, match="positive"):
        Calibrated("x", Fixed(), 0.0)
