"""Criteria that follow people are kept, those that do not are dropped, at the promised error rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from rewardlab.core.errors import UserError
from rewardlab.rewards.calibration import (
    ablate,
    fit_nonnegative,
    fit_pair_weights,
    fit_ridge,
    spearman,
    validate_criteria,
)

NAMES = ["helps", "also helps", "noise", "harms"]


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    return x, x @ np.array([1.0, 0.5, 0.0, -0.8]) + rng.normal(size=n)


def test_the_keep_rule() -> None:
    x, y = data(400, 0)
    found = {c.name: c for c in validate_criteria(x, y, NAMES)}
    assert [n for n in NAMES if found[n].keep] == ["helps", "also helps"]
    assert found["harms"].p_holm < 0.01
    assert found["harms"].correlation.high < 0
    assert all(c.p_holm >= c.p for c in found.values())
    assert not any(c.keep for c in validate_criteria(x, y, NAMES, least=0.9))


def test_missing_and_constant_scores() -> None:
    x, y = data(100, 1)
    x[:30, 0] = np.nan
    x[:, 2] = 3.0
    helps, _, constant, _ = validate_criteria(x, y, NAMES)
    assert helps.correlation.n == 70
    assert helps.keep
    assert np.isnan(constant.correlation.estimate)
    assert constant.p == 1
    assert not constant.keep
    with pytest.raises(UserError, match="human label"):
        validate_criteria(x, np.full(100, np.nan), NAMES)
    with pytest.raises(UserError, match="name per criterion"):
        validate_criteria(x, y, NAMES[:2])


def test_useless_criteria_are_rarely_kept_and_the_interval_covers() -> None:
    rng = np.random.default_rng(2)
    kept, covered = 0, 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's correlation of a normal pair with Pearson's 0.6
    for _ in range(300):
        y = rng.normal(size=60)
        kept += any(c.keep for c in validate_criteria(rng.normal(size=(60, 4)), y, NAMES))
        r, _ = spearman(0.6 * y + 0.8 * rng.normal(size=60), y)
        covered += truth in r
    assert kept <= 25  # half of alpha in expectation, 7.5, since only positive ones are kept
    assert covered >= 0.91 * 300


def test_weights_predict_on_other_rows() -> None:
    x, y = data(400, 3)
    other, truth = data(400, 4)
    for fit in (fit_nonnegative, lambda a, b: fit_ridge(a, b, seed=0)):
        assert ((fit(x, y)(other) - truth) ** 2).mean() < 0.8 * truth.var()
    alone = fit_nonnegative(x, y)(np.eye(4)) - fit_nonnegative(x, y)(np.zeros((1, 4)))
    assert (alone >= -1e-12).all()
    assert alone[3] == pytest.approx(0)


def test_ridge_shrinks_where_there_is_nothing_to_learn() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(30, 20)), rng.normal(size=30)
    assert fit_ridge(x, y, seed=0)(rng.normal(size=(500, 20))).std() < 0.5 * y.std()


def test_pair_weights_recover_the_taste_and_ignore_the_order() -> None:
    rng = np.random.default_rng(6)
    d = rng.normal(size=(3000, 3))
    label = (rng.random(3000) < special.expit(d @ np.array([2.0, 1.0, -1.0]))).astype(float)
    w = fit_pair_weights(d, label, penalty=0.0)
    assert w[2] == 0
    assert w[0] > 1.5 * w[1] > 0
    assert fit_pair_weights(-d, 1 - label, penalty=0.0) == pytest.approx(w, abs=1e-4)


def test_an_ablation_finds_what_matters() -> None:
    x, y = data(400, 7)
    found = {a.name: a for a in ablate(x, y, NAMES, lambda a, b: fit_ridge(a, b, seed=0), seed=0)}
    for name in ("helps", "also helps", "harms"):  # ridge may weight a criterion negatively
        assert found[name].rise.interval.low > 0
        assert found[name].p_holm < 0.05
    assert 0 in found["noise"].rise.interval
    twins = np.column_stack([x[:, 0], x[:, 0]])
    assert all(a.rise.interval.high < 0.1 for a in ablate(twins, y, NAMES[:2], fit_nonnegative, seed=0))
