"""Judges with planted faults, annotators with known agreement, benchmarks with known style effects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardlab.audit.annotators import fleiss_kappa, krippendorff_alpha
from rewardlab.audit.benchmarks import style_matrix, three_way_accuracy
from rewardlab.audit.judges import Verdict, judge_agreement, judge_card

RNG = np.random.default_rng


def verdicts(n: int, skill: float, to_first: float, seed: int) -> list[Verdict]:
    """Each reading is right with chance `skill`, but goes to the first shown with chance `to_first`."""
    rng = RNG(seed)
    made = []
    for i in range(n):
        label = int(rng.integers(1, 3))
        said = []
        for shown_first in (1, 2):
            right = label if rng.random() < skill else 3 - label
            said.append(shown_first if rng.random() < to_first else right)
        made.append(Verdict(str(i), said[0], said[1], label))
    return made


def test_planted_position_bias_is_found_and_sized() -> None:
    card = judge_card(verdicts(2000, 0.8, 0.3, 0))
    expected = 0.3 + 0.7 * 0.5  # a reading without bias goes to either place equally often
    assert card["first_position"]["low"] < expected < card["first_position"]["high"]
    assert card["position_p"] < 1e-6
    assert card["first_when_inconsistent"]["low"] > 0.5


def test_a_fair_judge_with_unequal_labels_is_not_called_biased() -> None:
    made = [
        Verdict(v.pair, 2 if v.winner == v.label else 1, 2 if v.swapped == v.label else 1, 2)
        for v in verdicts(800, 0.8, 0.0, 1)
    ]
    card = judge_card(made)
    assert card["first_position"]["low"] < 0.5 < card["first_position"]["high"]
    assert card["position_p"] > 0.01
    assert card["accuracy"]["low"] < 0.8 < card["accuracy"]["high"]


def test_unread_verdicts_are_counted_not_guessed() -> None:
    card = judge_card([Verdict("a", None, 1, 1), Verdict("b", 1, 1, 1), Verdict("c", 2, 1, 1)])
    assert (card["pairs"], card["unread"]) == (3, 1)
    assert card["accuracy_swapped"]["n"] == 3
    assert card["accuracy_first_order"]["n"] == 2
    assert card["consistency"]["estimate"] == 0.5


def test_judges_that_copy_agree_and_independent_ones_do_not() -> None:
    one, other = verdicts(400, 0.5, 0.0, 2), verdicts(400, 0.5, 0.0, 3)
    same = judge_agreement({"a": one, "b": one}, seed=0)
    apart = judge_agreement({"a": one, "b": other}, seed=0)
    assert same["alpha"]["estimate"] == 1
    assert same["pairs"][0]["agreement"]["estimate"] == 1
    assert apart["alpha"]["low"] < 0 < apart["alpha"]["high"]


def test_alpha_and_kappa_by_hand() -> None:
    """Two raters, items (a,a) (a,b) (b,b) (b,b).

    Observed disagreement 1/4. Values: 3 a, 5 b. Alpha expects 2*3*5/(8*7) = 15/28; kappa 1 - (9+25)/64 = 15/32.
    """
    items = [["a", "a"], ["a", "b"], ["b", "b"], ["b", "b"]]
    assert krippendorff_alpha(items, seed=0).estimate == pytest.approx(1 - (1 / 4) / (15 / 28))
    assert fleiss_kappa(items, seed=0).estimate == pytest.approx(1 - (1 / 4) / (15 / 32))


def test_missing_ratings() -> None:
    full = [["a", "a", None], ["a", "b", None], ["b", None, "b"], ["b", "b", None], ["a", None, None]]
    assert krippendorff_alpha(full, seed=0).estimate == pytest.approx(1 - (1 / 4) / (15 / 28))
    assert krippendorff_alpha(full, seed=0).n == 4
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([["a"], ["a", "b"]], seed=0)


def test_one_value_only_has_no_agreement_beyond_chance() -> None:
    assert math.isnan(krippendorff_alpha([["a", "a"]] * 5, seed=0).estimate)


def test_a_reward_that_pays_for_style_fails_where_the_wrong_answer_is_ornate() -> None:
    rng = RNG(0)
    style = np.arange(3.0)
    chosen, rejected = (rng.normal(q, 0.1, (200, 3)) + 2 * style for q in (0.5, 0.0))
    found = style_matrix(chosen, rejected)
    assert found["easy"]["estimate"] > 0.99
    assert found["normal"]["estimate"] > 0.95
    assert found["hard"]["estimate"] < 0.01
    assert found["matrix"][2][0]["estimate"] == 1
    chosen[0, 0] = np.nan
    assert style_matrix(chosen, rejected)["left_out"] == 1


def test_ties_are_found_where_scores_are_close() -> None:
    rng = RNG(1)
    label = rng.choice([-1.0, 0.0, 1.0], 600)
    difference = 3 * label + rng.normal(0, 0.5, 600)
    found = three_way_accuracy(difference, label, rng.integers(0, 5, 600))
    assert found["with_ties"]["low"] > 0.95
    assert 0.8 < found["threshold"] < 2.2
    assert found["without_ties"]["estimate"] > 0.99
    assert found["always_most"]["estimate"] < 0.45


def test_a_reward_without_information_on_ties_does_not_beat_the_commonest_label() -> None:
    rng = RNG(2)
    label = rng.choice([-1.0, 0.0, 1.0], 900)
    found = three_way_accuracy(rng.normal(size=900), label, rng.integers(0, 5, 900))
    assert found["with_ties"]["low"] < 0.37
