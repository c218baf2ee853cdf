"""Rewards against a judge: what length explains and what it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from rewardlab.audit.systems import between_systems, preference_agreement, rank_agreement

N = 2000


def world(seed: int, quality: float, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Quality differences, length differences, the judge's probabilities, instructions of five rows each."""
    rng = np.random.default_rng(seed)
    q, x = rng.normal(size=(2, N))
    return q, x, expit(quality * q + length * x), np.arange(N) // 5


def test_a_length_reward_has_nothing_beyond_length() -> None:
    _, length, p, instruction = world(0, 1.0, 2.0)
    found = preference_agreement(length, p, length, instruction, seed=0)
    assert found["accuracy"]["low"] > 0.75
    assert found["over_longer"]["estimate"] == 0
    assert found["accuracy_balanced"]["estimate"] == pytest.approx(0.5)


def test_a_reward_that_sees_quality_tells_more_than_length() -> None:
    quality, length, p, instruction = world(1, 1.5, 1.5)
    noisy = quality + np.random.default_rng(5).normal(0, 0.5, N)
    found = preference_agreement(noisy, p, length, instruction, seed=0)
    assert found["accuracy_balanced"]["low"] > 0.6
    assert found["beyond_length"]["low"] > 0.5


def test_chance_gets_no_credit() -> None:
    _, length, p, instruction = world(2, 1.0, 1.0)
    margin = np.random.default_rng(7).normal(size=N)
    found = preference_agreement(margin, p, length, instruction, seed=0)
    assert found["accuracy"]["low"] < 0.5 < found["accuracy"]["high"]
    assert found["beyond_length"]["low"] < 0 < found["beyond_length"]["high"]
    assert found["over_longer"]["high"] < 0


def test_ties_are_counted() -> None:
    p = np.array([0.5, 0.9, 0.1, 0.8])
    found = preference_agreement(np.array([1.0, 0.0, -1.0, 1.0]), p, np.ones(4), np.arange(4), seed=0)
    assert (found["judge_ties"], found["reward_ties"]) == (1, 1)
    assert found["accuracy"]["estimate"] == (0.5 + 1 + 1) / 3


def test_recognising_the_baseline_earns_nothing_between_systems() -> None:
    quality, length, _, instruction = world(3, 1.0, 0.0)
    p = expit(quality - 3)  # the baseline nearly always wins
    constant = np.full(N, -1.0)
    against = preference_agreement(constant, p, length, instruction, seed=0)
    among = between_systems(constant, p, length, instruction, seed=0)
    assert against["accuracy"]["low"] > 0.9
    assert among["concordance"]["estimate"] == 0.5
    seen = between_systems(quality, p, length, instruction, seed=0)
    assert seen["concordance"]["estimate"] == 1
    assert seen["over_longer"]["low"] > 0.3


def test_ranking_of_systems() -> None:
    values = {str(i): float(i) for i in range(12)}
    board = {k: v**3 for k, v in values.items()} | {"unknown": 5.0}
    found = rank_agreement(values, board)
    assert (found.estimate, found.high, found.n) == (1, 1, 12)
    assert 0.9 < found.low < 1
    upside_down = rank_agreement(values, {k: -v for k, v in board.items()}, method="kendall")
    assert upside_down.estimate == pytest.approx(-1)
    assert upside_down.low == pytest.approx(-1)
    assert math.isnan(rank_agreement({"1": 1.0, "2": 2.0}, board).estimate)
    assert math.isnan(rank_agreement(dict.fromkeys(values, 1.0), board).estimate)


@pytest.mark.parametrize("method", ["spearman", "kendall"])
def test_the_interval_of_a_rank_correlation_covers_it(method: str) -> None:
    """Bivariate normal values with correlation 0.6: Spearman's is 6/pi asin(0.3), Kendall's 2/pi asin(0.6)."""
    truth = 6 / math.pi * math.asin(0.3) if method == "spearman" else 2 / math.pi * math.asin(0.6)
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=25)
        b = 0.6 * a + 0.8 * rng.normal(size=25)
        one, other = ({str(i): float(v) for i, v in enumerate(x)} for x in (a, b))
        hits += truth in rank_agreement(one, other, method=method)  # type: ignore[arg-type]
    assert hits / 300 > 0.91
