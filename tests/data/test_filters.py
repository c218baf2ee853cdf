"""Filters keep what they say, and scoring pairs with models that have not seen them finds the wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from rewardlab.core.errors import UserError
from rewardlab.data import filters
from rewardlab.data.flywheel import flywheel

QUALITIES = st.lists(st.floats(-5, 5), min_size=1, max_size=40).map(np.array)


@given(QUALITIES, st.floats(0.01, 1))
def test_a_fraction_keeps_the_best_and_as_many_as_said(quality: np.ndarray, fraction: float) -> None:
    kept = filters.keep_fraction(quality, fraction)
    assert kept.sum() == max(1, round(fraction * quality.size))
    if not kept.all():
        assert quality[kept].min() >= quality[~kept].max()


@given(QUALITIES, st.floats(0.1, 1), st.integers(1, 4))
def test_strata_each_keep_their_share(quality: np.ndarray, fraction: float, count: int) -> None:
    strata = [i % count for i in range(quality.size)]
    kept = filters.keep_in_strata(quality, strata, fraction)
    for s in set(strata):
        inside = np.array(strata) == s
        assert (kept[inside] == filters.keep_fraction(quality[inside], fraction)).all()


@given(QUALITIES, st.floats(0.1, 1))
def test_small_loss_of_hard_labels_is_the_signed_margin(margin: np.ndarray, fraction: float) -> None:
    loss = filters.small_loss(margin)
    assert (filters.keep_above(loss, -np.log(2)) <= filters.keep_above(margin, 0)).all()
    assert (np.diff(loss[np.argsort(margin)]) >= 0).all()


def test_qualities() -> None:
    assert filters.confidence([-3, 1]).tolist() == [3, 1]
    assert filters.signed_margin([-3, 1]).tolist() == [-3, 1]
    soft = filters.small_loss([3.0, 3.0], [1.0, 0.5])
    assert soft[0] > soft[1] == pytest.approx(0.5 * np.log(special.expit(3.0) * special.expit(-3.0)))
    steady, split = filters.agreement([[1.0, 4.0], [1.0, -4.0]])
    assert steady == 0 > split
    assert (filters.random_quality(5, seed=1) == filters.random_quality(5, seed=1)).all()
    assert filters.keep_rows(["a", "b", "c"], filters.keep_above([1, 0, 2], 0)) == ["a", "c"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: filters.keep_fraction([1.0], 0.0),
        lambda: filters.keep_fraction([np.nan], 0.5),
        lambda: filters.keep_in_strata([1.0, 2.0], ["a"], 0.5),
        lambda: filters.agreement([[1.0, 2.0]]),
        lambda: filters.keep_rows(["a"], [1]),
        lambda: filters.fold_of(3, 5, seed=0),
        lambda: filters.fold_of(4, 3, seed=0, groups=["a", "a", "b", "b"]),
    ],
)
def test_bad_input_is_refused(call: object) -> None:
    with pytest.raises(UserError):
        call()  # type: ignore[operator]


@given(st.integers(4, 60), st.integers(2, 4), st.integers(0, 99))
def test_folds_are_even_and_keep_groups_together(n: int, folds: int, seed: int) -> None:
    fold = filters.fold_of(n, folds, seed=seed)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    groups = [i // 2 for i in range(2 * n)]
    grouped = filters.fold_of(2 * n, folds, seed=seed, groups=groups)
    assert (grouped[::2] == grouped[1::2]).all()


def test_no_row_is_scored_by_a_model_that_saw_it() -> None:
    fold = filters.fold_of(30, 5, seed=0)
    train_on = np.arange(30) % 3 > 0
    seen: list[tuple[set[int], set[int]]] = []

    def fit(rows: np.ndarray) -> filters.Callable[[np.ndarray], np.ndarray]:
        def score(asked: np.ndarray) -> np.ndarray:
            seen.append((set(rows.tolist()), set(asked.tolist())))
            return asked.astype(float)

        return score

    assert filters.cross_fitted(fit, fold, train_on=train_on).tolist() == list(range(30))
    assert len(seen) == 5
    for rows, asked in seen:
        assert not rows & asked
        assert rows <= set(np.flatnonzero(train_on).tolist())
    with pytest.raises(UserError, match="Nothing is left"):
        filters.cross_fitted(fit, fold, train_on=np.zeros(30, np.bool_))


class World:
    """Pairs with features of which 5 matter; a share has the label turned round and counts `leverage` times."""

    def __init__(
        self, n: int, heldout: int, flip: float, seed: int, features: int = 60, leverage: float = 1.0
    ) -> None:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n + heldout, features))
        right = x[:, :5].sum(1)
        x *= np.sign(right)[:, None]  # chosen minus rejected, where the label is right
        self.flipped = rng.random(n + heldout) < flip
        self.clean = x
        self.x = np.where(self.flipped[:, None], -leverage * x, x)

    def fit(self, rows: np.ndarray) -> filters.Callable[[np.ndarray], np.ndarray]:
        """Least squares to a margin of 1."""
        a = self.x[rows]
        w = np.linalg.solve(a.T @ a + 1e-3 * np.eye(a.shape[1]), a.sum(0))
        return lambda asked: np.asarray(self.x[asked] @ w)


def test_cross_fitted_margins_find_flips_that_naive_ones_hide() -> None:
    caught = {"naive": [], "cross": []}
    for seed in range(5):
        world = World(200, 0, 0.2, seed, features=120)
        every, fold = np.arange(200), filters.fold_of(200, 5, seed=seed)
        margins = {"naive": world.fit(every)(every), "cross": filters.cross_fitted(world.fit, fold)}
        for how, margin in margins.items():
            caught[how].append((margin[world.flipped] < 0).mean())
    assert np.mean(caught["cross"]) > np.mean(caught["naive"]) + 0.1


def run(world: World, n: int, heldout: int, **settings: int) -> object:
    keep = lambda margin: filters.keep_above(margin, 0.0)  # noqa: E731
    return flywheel(world.fit, filters.fold_of(n, 5, seed=0), np.arange(n, n + heldout), keep, **settings)


def test_the_flywheel_goes_on_while_it_helps_and_stops_when_not() -> None:
    noisy = run(World(600, 4000, 0.2, 0, leverage=2.0), 600, 4000, max_rounds=3)
    assert noisy.best >= 1
    assert noisy.rounds[noisy.best].gain.low > 0
    assert noisy.rounds[noisy.best].accuracy > noisy.rounds[0].accuracy
    clean = run(World(600, 2000, 0.0, 0, features=6), 600, 2000)
    assert clean.stopped
    assert clean.best == 0
    assert len(clean.rounds) == 2
    assert clean.rounds[0].kept.all()
    assert clean.rounds[0].gain is None
    assert clean.rounds[1].gain.low <= 0


def test_a_flywheel_over_noise_rarely_claims_a_gain() -> None:
    claims = sum(run(World(100, 200, 0.5, seed, features=10), 100, 200).best > 0 for seed in range(60))
    assert claims <= 7  # one-sided 2.5% of 60 is 1.5
