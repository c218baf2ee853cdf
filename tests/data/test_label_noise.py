"""Simulated annotators and flips come back as what was simulated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from rewardlab.core.errors import UserError
from rewardlab.data.label_noise import dawid_skene, flip_rate

ERRORS = np.array([0.05, 0.15, 0.25, 0.4, 0.3])


def votes(n: int, seed: int, errors: np.ndarray, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, n, p=np.r_[0.5, np.full(classes - 1, 0.5 / (classes - 1))])
    other = (truth[:, None] + rng.integers(1, classes, (n, errors.size))) % classes
    return truth, np.where(rng.random((n, errors.size)) < errors, other, truth[:, None])


def test_annotators_error_rates_come_back_and_beat_the_majority() -> None:
    truth, v = votes(2000, 0, ERRORS)
    found = dawid_skene(v, 3)
    assert found.converged
    assert found.error_rate == pytest.approx(ERRORS, abs=0.04)
    assert found.prior == pytest.approx([0.5, 0.25, 0.25], abs=0.04)
    majority = np.array([np.bincount(row, minlength=3).argmax() for row in v])
    assert (found.posterior.argmax(1) == truth).mean() > (majority == truth).mean() + 0.005
    surest = found.posterior.max(1)
    assert surest.mean() == pytest.approx((found.posterior.argmax(1) == truth).mean(), abs=0.02)


def test_missing_votes_and_a_contrary_annotator() -> None:
    truth, v = votes(3000, 1, np.array([0.1, 0.1, 0.2, 0.95]), classes=2)
    v = np.where(np.random.default_rng(0).random(v.shape) < 0.3, -1, v)
    some = (v >= 0).any(1)
    found = dawid_skene(v[some], 2)
    assert found.error_rate == pytest.approx([0.1, 0.1, 0.2, 0.95], abs=0.04)
    assert (found.posterior.argmax(1) == truth[some]).mean() > 0.93


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_em_ends_above_where_it_starts_and_ignores_the_order_of_items(seed: int) -> None:
    _, v = votes(60, seed, np.array([0.2, 0.3, 0.4]))
    full = dawid_skene(v, 3)
    order = np.random.default_rng(seed).permutation(60)
    assert dawid_skene(v[order], 3).posterior == pytest.approx(full.posterior[order], abs=1e-3)
    assert full.posterior.sum(1) == pytest.approx(1)
    assert full.log_likelihood >= dawid_skene(v, 3, iterations=1).log_likelihood - 1e-6


@pytest.mark.parametrize("bad", [[[0, 3]], [[-1, -1]], [[0.5, 1.0]], [0, 1]])
def test_votes_that_are_none_are_refused(bad: list[object]) -> None:
    with pytest.raises(UserError):
        dawid_skene(np.array(bad), 3)


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.2, 0.3])
def test_the_flip_rate_of_a_good_scorer_comes_back(flip: float) -> None:
    rng = np.random.default_rng(3)
    clean = special.expit(rng.normal(4.0, 1.0, 5000))  # P(chosen is better) before a label is turned round
    flipped = rng.random(5000) < flip
    known = (1 - flip) * clean + flip * (1 - clean)
    p = np.where(flipped, 1 - known, known)
    found = flip_rate(p)
    assert found.rate == pytest.approx(flip, abs=0.02)
    assert found.suspect.sum() == round(found.rate * 5000)
    if flip:
        assert flipped[found.suspect].mean() > 0.9


def test_memorised_labels_hide_the_noise_and_a_weak_scorer_exaggerates_it() -> None:
    assert flip_rate(np.full(100, 0.99)).rate == 0
    weak = special.expit(np.random.default_rng(4).normal(0.5, 1.0, 5000))
    assert flip_rate(weak).rate > 0.1  # no label is wrong here
    with pytest.raises(UserError):
        flip_rate([1.2])
