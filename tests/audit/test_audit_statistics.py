"""The audit's edits and aggregates as pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.audit import edits
from rewardlab.audit.calibration import forecast
from rewardlab.audit.confidence import brier_parts, cross_fitted, sweep_ece, temperature
from rewardlab.audit.ranking import best_of_k, rank_systems, style_matrix, subset_rates

TEXTS = st.text(max_size=80)
EDITS = [
    *(edits.filler, edits.repeated, edits.shuffled, edits.bulleted, edits.markdown, edits.typos),
    *(edits.contracted, edits.synonyms, edits.curly, edits.spaced, edits.decomposed),
]


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(EDITS))
def test_an_edit_is_a_function_of_the_text(text: str, edit: edits.Edit) -> None:
    assert edit(text) == edit(text)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_edits_keep_what_they_do_not_name(text: str) -> None:
    assert sorted(edits.typos(text)) == sorted(text)
    assert edits.spaced(text).replace(" ", "") == text.replace(" ", "")
    assert sorted(edits.shuffled(text).split()) == sorted(text.split())
    assert edits.composed(edits.decomposed(text)) == edits.composed(text)


def test_edits_by_example() -> None:
    assert edits.contracted("Do not go. It is late.") == "Don't go. It's late."
    assert edits.synonyms("The big one will help.") == "The large one will assist."
    assert edits.bulleted("One. Two!") == "- One.\n- Two!"
    assert edits.typos("remember") != "remember"


def test_temperature_is_recovered_and_cross_fitting_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20_000)
    label = (rng.random(z.size) < 1 / (1 + np.exp(-z))).astype(float)
    assert temperature(4 * z, label) == pytest.approx(4, rel=0.05)
    cooled, fitted = cross_fitted(4 * z, label, seed=0)
    assert fitted == pytest.approx((4, 4), rel=0.08)
    assert (np.sign(cooled) == np.sign(z)).all()
    claims = forecast(z, label, seed=0)
    parts = brier_parts(claims)
    assert parts["reliability"] < 0.001
    assert parts["brier"] == pytest.approx(np.mean((claims.predicted - claims.outcome) ** 2))
    assert sweep_ece(claims)[0] < 0.02
    assert sweep_ece(forecast(4 * z, label, seed=0))[0] > 0.1


def test_the_mean_of_subsets_counts_a_small_subset_like_a_large_one() -> None:
    correct = np.array([1.0] * 90 + [0.0] * 10)
    rates, mean = subset_rates(correct, ["a"] * 90 + ["b"] * 10)
    assert rates["a"].estimate == 1.0
    assert mean.estimate == 0.5
    assert mean.low < 0.5 < mean.high


def test_best_of_k_and_styles() -> None:
    found = best_of_k([3.0, 1.0, 2.0], [[1.0, 2.0, 0.0], [2.0], [2.0]])
    assert found.estimate == pytest.approx((1 + 0 + 0.5) / 3)
    chosen, rejected = np.divmod(np.arange(9), 3)
    correct = (chosen > rejected).astype(float)
    matrix, means = style_matrix(correct, chosen, rejected)
    assert matrix == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert {k: v.estimate for k, v in means.items()} == {"easy": 1.0, "normal": 0.0, "hard": 0.0}


def test_systems_are_ranked_against_a_leaderboard() -> None:
    rng = np.random.default_rng(0)
    board = {f"s{i}": float(i) for i in range(6)}
    scores = {name: rng.normal(value, 0.5, 50) for name, value in board.items()}
    found = rank_systems(scores, board, seed=0)
    assert found is not None
    assert found["kendall"].estimate == pytest.approx(1.0)
    assert found["spearman"].estimate == pytest.approx(1.0)
    backwards = rank_systems(scores, {k: -v for k, v in board.items()}, seed=0)
    assert backwards is not None
    assert backwards["kendall"].high < 0
    assert rank_systems(scores, {"s0": 1.0}, seed=0) is None
