"""Length-controlled win rates on preferences whose cause is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rewardlab.audit.length_preference import length_preference, matched_win_rate
from rewardlab.audit.win_rates import (
    Preferences,
    estimated_difficulty,
    length_term,
    published_win_rate,
    win_rate,
)

N = 3000


def made(
    phi: float, psi: float, theta: float, *, stretch: float = 1.0, seed: int = 0, hard: bool = True
) -> tuple[Preferences, dict[int, float]]:
    """A system's 0/1 preferences from planted coefficients; `stretch` multiplies its lengths."""
    rng = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).normal(size=N)
    baseline = rng.uniform(300, 2000, N)
    length = baseline * stretch + rng.normal(0, 400, N)
    z = phi * length_term(length, baseline) + psi * difficulty * hard + theta
    p = (rng.random(N) < expit(z)).astype(float)
    return Preferences(np.arange(N), p, length, baseline), dict(enumerate(difficulty))


def test_planted_coefficients_are_recovered() -> None:
    data, difficulty = made(1.5, 0.8, -0.5)
    found = win_rate(data, difficulty, seed=0, resamples=50)
    np.testing.assert_allclose(found.coefficients, (1.5, 0.8, -0.5), atol=0.2)


def test_a_judge_blind_to_length_gives_equal_rates() -> None:
    data, difficulty = made(0.0, 0.8, -0.5, stretch=1.3)
    found = win_rate(data, difficulty, seed=0)
    assert found.length_controlled.low < found.raw.estimate < found.length_controlled.high


def test_the_controlled_rate_of_a_padded_system_falls_to_that_of_the_plain_one() -> None:
    plain, difficulty = made(2.0, 0.5, -0.3, seed=1)
    padded, _ = made(2.0, 0.5, -0.3, stretch=1.5, seed=2)
    a, b = win_rate(plain, difficulty, seed=0), win_rate(padded, difficulty, seed=0)
    assert b.raw.estimate > a.raw.estimate + 10
    assert b.length_controlled.estimate < b.raw.estimate - 10
    assert abs(b.length_controlled.estimate - a.length_controlled.estimate) < 5


def test_the_interval_covers_the_planted_rate() -> None:
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = 300
        length, baseline, hard = rng.uniform(500, 1500, n), np.full(n, 1000.0), rng.normal(size=n)
        z = 1.2 * length_term(length, baseline) + 0.5 * hard
        data = Preferences(np.arange(n), (rng.random(n) < expit(z)).astype(float), length, baseline)
        found = win_rate(data, dict(enumerate(hard)), seed=seed, resamples=200)
        hits += 50.0 in found.length_controlled
    assert hits >= 33


def test_equal_lengths_leave_the_length_term_out() -> None:
    assert (length_term(np.array([5.0, 7.0]), np.array([3.0, 5.0])) == 0).all()


def test_difficulty_is_found_from_the_preferences_alone() -> None:
    systems = {}
    for seed in range(12):
        systems[str(seed)], difficulty = made(1.0, 1.0, seed / 6 - 1, seed=seed)
    found = estimated_difficulty(systems)
    correlation = np.corrcoef([found[i] for i in range(N)], [difficulty[i] for i in range(N)])[0, 1]
    assert correlation > 0.75


def test_published_coefficients_give_their_rate() -> None:
    assert published_win_rate({0: 0.0, 1: 0.0}, 2.0, 0.0) == pytest.approx(50.0)
    assert published_win_rate({0: 1.0, 1: -1.0}, 1.0, 0.0) == pytest.approx(50.0)


def test_a_length_loving_judge_is_told_from_a_blind_one_with_better_long_systems() -> None:
    """In both data sets longer answers win more; only in the first because the judge pays for length."""
    loving = {str(s): made(1.5, 0.0, 0.0, stretch=1 + s / 4, seed=s, hard=False)[0] for s in range(3)}
    blind = {str(s): made(0.0, 0.0, s - 1.0, stretch=0.6 + 0.6 * s, seed=s, hard=False)[0] for s in range(3)}
    flat = dict.fromkeys(range(N), 0.0)
    a, b = (length_preference(systems, flat, seed=0) for systems in (loving, blind))
    assert a["prefers_longer"]["low"] > 50
    assert b["prefers_longer"]["low"] > 50
    assert a["odds_per_doubling"]["low"] > 1.3
    assert b["odds_per_doubling"]["low"] < 1.05
    assert b["length_coefficient"]["low"] < 0 < b["length_coefficient"]["high"]
    assert a["bands"][0]["excess"]["high"] < 0 < a["bands"][-1]["excess"]["low"]


def test_matched_rate_uses_answers_of_like_length_only() -> None:
    data = Preferences(
        np.arange(4), np.array([1.0, 0, 1, 1]), np.array([100.0, 105, 200, 50]), np.full(4, 100.0)
    )
    found = matched_win_rate(data, seed=0)
    assert (found["n"], found["estimate"]) == (2, 50.0)
