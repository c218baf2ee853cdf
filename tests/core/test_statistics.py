"""Intervals against published and recomputed values, scipy, and their own promised coverage."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewardlab.core.statistics import (
    Interval,
    bounded_mean_interval,
    hierarchical_bootstrap,
    holm,
    mean_interval,
    newcombe,
    newcombe_paired,
    paired_difference,
    ratio_interval,
    t_interval,
    tost,
    wilson,
)

Z = 1.959963984540054


def score_limits(k: int, n: int) -> tuple[float, float]:
    """Wilson's limits as numeric roots of (k/n - p)^2 = z^2 p (1 - p) / n, not from the closed form."""
    c = Z**2 / n
    low, high = sorted(np.roots([1 + c, -(2 * k / n + c), (k / n) ** 2]).real)
    return float(low), float(high)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_the_published_table(k: int, n: int, low: float, high: float) -> None:
    got = wilson(k, n)
    assert got.low == pytest.approx(low, abs=5e-5)
    assert got.high == pytest.approx(high, abs=5e-5)
    assert (got.low, got.high) == pytest.approx(score_limits(k, n), abs=1e-9)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=50, deadline=None)
def test_wilson_matches_scipy(kn: tuple[int, int]) -> None:
    theirs = stats.binomtest(*kn).proportion_ci(method="wilson")
    got = wilson(*kn)
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert got.low <= got.estimate <= got.high


def test_wilson_takes_half_wins_and_refuses_nonsense() -> None:
    assert wilson(10, 20).low < wilson(10.5, 20).low < wilson(11, 20).low
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="k=5, n=4"):
        wilson(5, 4)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    # Newcombe 1998, "difference between independent proportions", table II, method 10.
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
    ],
)
def test_newcombe_matches_the_published_table(table: tuple[int, ...], low: float, high: float) -> None:
    k1, n1, k2, n2 = table
    got = newcombe(k1, n1, k2, n2)
    assert (got.low, got.high) == pytest.approx((low, high), abs=6e-5)
    (l1, u1), (l2, u2) = score_limits(k1, n1), score_limits(k2, n2)
    p1, p2 = k1 / n1, k2 / n2
    assert got.low == pytest.approx(p1 - p2 - math.hypot(p1 - l1, u2 - p2), abs=1e-9)
    assert got.high == pytest.approx(p1 - p2 + math.hypot(u1 - p1, p2 - l2), abs=1e-9)


def test_newcombe_paired_against_values_worked_from_the_score_equation() -> None:
    # 36 both, 12 only first, 2 only second, 0 neither; Newcombe 1998 (paired), method 10: 0.0569, 0.3404.
    got = newcombe_paired(36, 12, 2, 0)
    assert got.estimate == pytest.approx(0.2)
    (l1, u1), (l2, u2) = score_limits(48, 50), score_limits(38, 50)
    phi = (36 * 0 - 12 * 2) / math.sqrt(48 * 2 * 38 * 12)  # negative: no continuity correction
    a, b = 0.96 - l1, u2 - 0.76
    c, d = u1 - 0.96, 0.76 - l2
    assert got.low == pytest.approx(0.2 - math.sqrt(a * a - 2 * phi * a * b + b * b), abs=1e-9)
    assert got.high == pytest.approx(0.2 + math.sqrt(c * c - 2 * phi * c * d + d * d), abs=1e-9)
    assert (got.low, got.high) == pytest.approx((0.0569, 0.3404), abs=6e-5)


def test_newcombe_paired_uses_the_pairing() -> None:
    paired = newcombe_paired(45, 5, 0, 50)
    independent = newcombe(50, 100, 45, 100)
    assert paired.estimate == pytest.approx(independent.estimate)
    assert paired.high - paired.low < 0.6 * (independent.high - independent.low)
    swapped = newcombe_paired(45, 0, 5, 50)
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04 -> running max.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="outside"):
        holm([math.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if (len(p) - rank) * p[i] > 0.05:
            break
        rejected.add(i)
    assert {i for i, q in enumerate(holm(p)) if q <= 0.05} == rejected


def test_bca_agrees_with_scipy_on_skewed_values() -> None:
    x = np.random.default_rng(3).lognormal(size=60)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(4))
    got = mean_interval(x, seed=5, resamples=20000)
    width = got.high - got.low
    assert got.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert got.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert got.high - got.estimate > 1.2 * (got.estimate - got.low)  # the skew is seen


def test_ratio_bca_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(5, 60, 80).astype(float)
    kl = length * rng.gamma(1.0, 0.1, 80)
    theirs = stats.bootstrap(
        (kl, length),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=9999,
        method="BCa",
        rng=np.random.default_rng(1),
    )
    got = ratio_interval(kl, length, seed=2, resamples=9999)
    assert got.estimate == pytest.approx(kl.sum() / length.sum())
    width = got.high - got.low
    assert got.low == pytest.approx(theirs.confidence_interval.low, abs=0.04 * width)
    assert got.high == pytest.approx(theirs.confidence_interval.high, abs=0.04 * width)


def test_degenerate_data_has_a_documented_answer() -> None:
    assert mean_interval([2.0] * 50, seed=0) == Interval(2.0, 2.0, 2.0, 50)
    assert mean_interval([0.1 + 0.2] * 40, seed=0).high == pytest.approx(0.3)
    few = [1.0, 2.0, 4.0]
    assert mean_interval(few, seed=0).low == pytest.approx(t_interval(few).low)
    assert 0.0 in mean_interval([7.0], seed=0)
    assert mean_interval([7.0], seed=0).as_dict() == {"estimate": 7.0, "low": None, "high": None, "n": 1}
    assert json.dumps(mean_interval([], seed=0).as_dict(), allow_nan=False)
    assert math.isnan(ratio_interval([0.0, 0.0], [0.0, 0.0], seed=0).estimate)
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        mean_interval([1.0, math.nan], seed=0)


def test_the_same_seed_gives_the_same_interval_quickly() -> None:
    x = np.random.default_rng(0).normal(size=5000)
    began = time.perf_counter()
    first = mean_interval(x, seed=1)
    assert time.perf_counter() - began < 2
    assert first == mean_interval(x, seed=1)
    assert first != mean_interval(x, seed=2)


@pytest.mark.parametrize("n", [8, 40])
def test_mean_interval_covers(n: int) -> None:
    rng = np.random.default_rng(n)
    hits = [1.0 in mean_interval(rng.gamma(4.0, 0.25, size=n), seed=i, resamples=1000) for i in range(400)]
    # Binomial sd at 400 draws is 0.011; both methods lose a little on skewed data.
    assert 0.90 <= np.mean(hits) <= 0.98


def test_bounded_mean_interval_is_wilson_on_rates_and_covers_with_ties() -> None:
    got = bounded_mean_interval([1.0] * 17 + [0.0] * 3)
    assert (got.low, got.high) == pytest.approx((wilson(17, 20).low, wilson(17, 20).high))
    assert bounded_mean_interval([1.0] * 20).low == pytest.approx(wilson(20, 20).low)
    rng = np.random.default_rng(0)
    for probabilities in ([0.05, 0.1, 0.85], [0.2, 0.6, 0.2]):
        truth = probabilities[1] / 2 + probabilities[2]
        hits = [
            truth in bounded_mean_interval(rng.choice([0, 0.5, 1], size=40, p=probabilities))
            for _ in range(1000)
        ]
        assert 0.93 <= np.mean(hits) <= 0.98
    with pytest.raises(ValueError, match="between 0 and 1"):
        bounded_mean_interval([2.0])


def test_hierarchical_bootstrap_covers_where_pooling_prompts_does_not() -> None:
    rng = np.random.default_rng(7)
    nested, pooled = [], []
    for i in range(200):
        seeds = [rng.normal(rng.normal(0, 1.0), 1.0, size=30) for _ in range(5)]
        nested.append(0.0 in hierarchical_bootstrap(seeds, seed=i, resamples=400))
        pooled.append(0.0 in mean_interval(np.concatenate(seeds), seed=i, resamples=400))
    assert np.mean(nested) >= 0.9
    assert np.mean(pooled) < 0.6


def test_hierarchical_bootstrap_weights_seeds_equally() -> None:
    got = hierarchical_bootstrap([[0.0] * 100, [1.0] * 10], seed=0)
    assert got.estimate == 0.5
    assert got.n == 2
    assert hierarchical_bootstrap([[0.0, 1.0]], seed=0).high == math.inf
    with pytest.raises(ValueError, match="no values"):
        hierarchical_bootstrap([[1.0], []], seed=0)


def test_paired_difference_sees_what_unpaired_noise_hides() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.normal(0, 10, 40)
    a, b = prompt + 0.5 + rng.normal(0, 0.3, 40), prompt + rng.normal(0, 0.3, 40)
    got = paired_difference(a, b)
    assert got.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert 0 < got.interval.low < 0.5 < got.interval.high
    flips = paired_difference(a, b, method="sign_flip", seed=1)
    assert flips.p <= 2 / 9999
    assert flips.interval.estimate == pytest.approx(got.interval.estimate)


def test_sign_flip_is_exact_for_few_units() -> None:
    # All 2^4 flips of 1, 2, 3, 4: only the two one-signed ones reach |mean| = 2.5.
    assert paired_difference([1.0, 2.0, 3.0, 4.0], method="sign_flip").p == pytest.approx(2 / 16)


def test_paired_difference_without_spread() -> None:
    assert paired_difference([1.0] * 9, [1.0] * 9).p == 1.0
    assert paired_difference([0.3, 0.5, 0.7], [0.1, 0.3, 0.5]).p == 0.25
    assert paired_difference([1.0], [0.0]).p == 1.0
    with pytest.raises(ValueError, match="equal lengths"):
        paired_difference([1.0], [0.0, 1.0])


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=20), st.floats(0.01, 5))
@settings(deadline=None)
def test_tost_agrees_with_its_interval(d: list[float], margin: float) -> None:
    got = tost(d, margin=margin)
    inside = -margin < got.interval.low and got.interval.high < margin
    if min(abs(got.interval.low + margin), abs(got.interval.high - margin)) > 1e-9:
        assert got.equivalent == inside


def test_tost_needs_evidence_for_sameness() -> None:
    rng = np.random.default_rng(0)
    assert tost(rng.normal(0, 1, 400), margin=0.2).equivalent
    assert not tost(rng.normal(0, 1, 6), margin=0.2).equivalent
    assert not tost(rng.normal(1, 1, 400), margin=0.2).equivalent
    assert not tost([0.0], margin=1.0).equivalent
    with pytest.raises(ValueError, match="positive"):
        tost([1.0, 2.0], margin=0.0)
