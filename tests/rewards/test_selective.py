"""The guarantees of selective prediction and conformal abstention hold over repeated draws."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy import special, stats

from rewardlab.core.errors import UserError
from rewardlab.rewards.calibration import aurc, fit_conformal, risk_coverage, sgr

GRID = np.linspace(0.5, 0.999, 20001)


def true_risk(threshold: float, levels: np.ndarray) -> float:
    """Error rate of the answers when an answer with confidence c (uniform on `levels`) is wrong with 1 - c."""
    answered = levels[levels >= threshold]
    return float((1 - answered).mean())


@pytest.mark.parametrize("union", ["search", "candidates"])
@pytest.mark.parametrize("ties", [False, True])
def test_sgr_violates_its_risk_at_most_delta_of_the_time(
    union: Literal["search", "candidates"], ties: bool
) -> None:
    rng = np.random.default_rng(5)
    levels = np.array([0.5, 0.7, 0.84, 0.86, 0.95]) if ties else GRID
    delta, draws, risk = 0.1, 400, 0.15
    violations, naive, coverage = 0, 0, []
    for _ in range(draws):
        c = rng.choice(levels, 600)
        error = (rng.random(600) < 1 - c).astype(float)
        found = sgr(c, error, risk=risk, delta=delta, union=union)
        coverage.append(found.coverage)
        violations += found.feasible and true_risk(found.threshold, levels) > risk
        _covers, risks = risk_coverage(c, error)
        allowed = np.flatnonzero(risks <= risk)
        if allowed.size:
            threshold = np.unique(-c)[allowed[-1]] * -1
            naive += true_risk(threshold, levels) > risk
    assert violations <= stats.binom.ppf(0.999, draws, delta)
    assert np.mean(coverage) > 0.15
    if not ties:  # the bound is needed: without it the promise is broken much more often
        assert naive > stats.binom.ppf(0.999, draws, delta)


def test_sgr_gives_the_exact_bound_and_answers_ties_together() -> None:
    found = sgr(np.ones(100), np.r_[np.ones(3), np.zeros(97)], risk=0.2, delta=0.05)
    assert found.coverage == 1
    assert found.threshold == 1
    assert stats.binom.cdf(3, 100, found.bound) == pytest.approx(0.05)
    assert not sgr(np.ones(100), np.r_[np.ones(30), np.zeros(70)], risk=0.2, delta=0.05).feasible
    half = sgr(np.repeat([0.9, 0.6], 200), np.repeat([0, 1], 200), risk=0.1, delta=0.05)
    assert (half.threshold, half.coverage) == (0.9, 0.5)


def test_risk_coverage_and_its_area() -> None:
    covers, risks = risk_coverage([3, 2, 2, 1], [0, 1, 0, 1])
    assert covers == pytest.approx([0.25, 0.75, 1])
    assert risks == pytest.approx([0, 1 / 3, 0.5])
    assert aurc([3, 2, 2, 1], [0, 1, 0, 1]) == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 * 0.5)
    assert aurc([1, 1, 1, 1], [0, 1, 0, 1]) == pytest.approx(0.5)


@pytest.mark.parametrize("risk", [0.0, 1.0])
def test_sgr_refuses_what_is_no_guarantee(risk: float) -> None:
    with pytest.raises(UserError, match="guarantee"):
        sgr([1.0], [0], risk=risk, delta=0.1)
    with pytest.raises(UserError, match="neither 0 nor 1"):
        sgr([1.0], [0.5], risk=0.1, delta=0.1)


@pytest.mark.parametrize("coarse", [False, True])
def test_conformal_abstention_bounds_decided_errors_on_average(coarse: bool) -> None:
    rng = np.random.default_rng(7)
    alpha, n, draws = 0.1, 99, 600
    wrong, decided = [], []
    for _ in range(draws):
        margin = rng.normal(0.8, 1.0, n + 200)
        if coarse:
            margin = np.round(margin)
        said = fit_conformal(margin[:n], alpha=alpha).decide(margin[n:])
        wrong.append((said == -1).mean())
        decided.append((said != 0).mean())
    error = np.std(wrong) / np.sqrt(draws)
    assert np.mean(wrong) <= alpha + 3 * error
    assert np.mean(decided) > 0.2
    if not coarse:  # and not by abstaining more than needed: the unanswered errors would break it
        assert np.mean(wrong) > alpha - 0.02
        assert special.ndtr(-0.8) > alpha + 0.05


def test_conformal_with_too_few_pairs_abstains_and_a_good_reward_decides() -> None:
    assert (fit_conformal(np.ones(8), alpha=0.1).decide([100.0, -100.0]) == 0).all()
    good = fit_conformal(np.arange(1.0, 100.0), alpha=0.1)
    assert good.decide([0.5, -0.5, 0.0]).tolist() == [1, -1, 0]
    with pytest.raises(UserError, match="between 0 and 1"):
        fit_conformal([1.0], alpha=0.0)
