"""The labeller: sampled labels follow the stated probability, and the biases are what they say."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.worlds.advice import AdviceWorld, LabellerSettings, bayes_accuracy
from rewardlab.worlds.advice.labeller import Labeller, Seen

seen = st.builds(Seen, st.floats(-1, 1), st.integers(0, 200), st.booleans())
tastes = st.builds(
    LabellerSettings,
    gold_scale=st.floats(-5, 5),
    length_bias=st.floats(-2, 2),
    opener_bias=st.floats(-2, 2),
    noise=st.sampled_from([0.0, 1e-3, 0.5, 2.0]),
    flip=st.floats(0, 1),
)
A, B = Seen(0.6, 12, False), Seen(0.4, 20, True)


@given(tastes, seen, seen)
def test_probabilities_are_antisymmetric_and_bounded_by_the_flips(
    taste: LabellerSettings, a: Seen, b: Seen
) -> None:
    labeller = Labeller(taste)
    p = labeller.probability(a, b)
    assert p + labeller.probability(b, a) == pytest.approx(1)
    assert min(taste.flip, 1 - taste.flip) - 1e-9 <= p <= max(taste.flip, 1 - taste.flip) + 1e-9
    assert labeller.probability(a, a) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "taste",
    [
        LabellerSettings(),
        LabellerSettings(flip=0.0, noise=1.0),
        LabellerSettings(flip=0.3, noise=0.2),
        LabellerSettings(flip=0.1, noise=0.0),
        LabellerSettings(gold_scale=0, length_bias=0, opener_bias=0, noise=0.0),
    ],
)
def test_sampled_labels_agree_with_the_probability(taste: LabellerSettings) -> None:
    labeller, rng, draws = Labeller(taste), random.Random(5), 20_000
    p = labeller.probability(A, B)
    share = sum(labeller.prefers_first(A, B, rng) for _ in range(draws)) / draws
    assert abs(share - p) < 4 * math.sqrt(0.25 / draws)


def test_probability_worked_out_by_hand() -> None:
    taste = LabellerSettings(gold_scale=2, length_bias=0.5, opener_bias=0.3, noise=0.4, flip=0.1)
    difference = 2 * (0.6 - 0.4) + 0.5 * math.log(12 / 20) - 0.3
    sigmoid = 1 / (1 + math.exp(-difference / 0.4))
    assert Labeller(taste).probability(A, B) == pytest.approx(0.9 * sigmoid + 0.1 * (1 - sigmoid))


def test_without_noise_the_better_one_wins_and_ties_are_even() -> None:
    labeller = Labeller(LabellerSettings(noise=0, flip=0, length_bias=0, opener_bias=0))
    assert labeller.probability(A, B) == 1.0
    assert labeller.probability(B, A) == 0.0
    assert labeller.probability(A, Seen(0.6, 99, True)) == 0.5


def test_an_empty_answer_has_a_finite_utility() -> None:
    assert Labeller(LabellerSettings()).utility(Seen(0.0, 0, False)) == 0.0


def test_bayes_accuracy_is_reached_by_the_utility_and_not_by_gold() -> None:
    pairs = AdviceWorld().pairs(4000, split="train", seed=11)

    def accuracy(key: str) -> float:
        gaps = [p.meta[f"{key}_chosen"] - p.meta[f"{key}_rejected"] for p in pairs]
        return sum(1.0 if g > 0 else 0.5 if g == 0 else 0.0 for g in gaps) / len(gaps)

    error = 4 * math.sqrt(0.25 / len(pairs))
    assert abs(accuracy("utility") - bayes_accuracy(pairs)) < error
    assert 0.76 < bayes_accuracy(pairs) < 0.84
    assert 0.68 < accuracy("gold") < bayes_accuracy(pairs) - 0.03


def test_the_biases_can_be_read_off_the_labels() -> None:
    pairs = AdviceWorld().pairs(4000, split="train", seed=12)
    similar = [p for p in pairs if abs(p.meta["gold_chosen"] - p.meta["gold_rejected"]) < 0.11]
    longer = [p for p in similar if p.meta["words_chosen"] != p.meta["words_rejected"]]
    opened = [p for p in similar if p.meta["opener_chosen"] != p.meta["opener_rejected"]]
    assert sum(p.meta["words_chosen"] > p.meta["words_rejected"] for p in longer) / len(longer) > 0.6
    assert sum(p.meta["opener_chosen"] for p in opened) / len(opened) > 0.65


def test_the_bayes_accuracy_of_nothing_is_refused() -> None:
    with pytest.raises(UserError):
        bayes_accuracy([])
