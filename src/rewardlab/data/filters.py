"""Which preference pairs to train on: how good a pair looks to a scorer, and how many to keep.

A margin is score(chosen) - score(rejected) by some scorer. A scorer that was trained on a pair has partly
memorised its label, wrong or right, so its margin there says little; `cross_fitted` scores every pair with a
model that has not seen it. Qualities are oriented so that higher is kept first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardlab.core.errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
Fit = Callable[[Indices], Callable[[Indices], Floats]]
"""Training rows -> a model that gives the margins of any rows."""
Row = TypeVar("Row")


def confidence(margin: ArrayLike) -> Floats:
    """|margin|: how sure the scorer is, whichever way; keeps confidently mislabelled pairs too."""
    return np.abs(np.asarray(margin, np.float64))


def signed_margin(margin: ArrayLike) -> Floats:
    """margin: how much the scorer agrees with the label."""
    return np.asarray(margin, np.float64)


def small_loss(margin: ArrayLike, label: ArrayLike | float = 1.0) -> Floats:
    """Minus the Bradley-Terry loss: y log sigmoid(m) + (1 - y) log sigmoid(-m).

    The small-loss rule of Han et al. 2018 (arXiv 1804.06872). With hard labels it falls with the margin, so
    keeping a fraction by it or by `signed_margin` keeps the same pairs; soft labels make them differ.
    """
    m, y = np.asarray(margin, np.float64), np.asarray(label, np.float64)
    return np.asarray(-y * np.logaddexp(0, -m) - (1 - y) * np.logaddexp(0, m))


def agreement(margins: ArrayLike) -> Floats:
    """Minus the standard deviation over an ensemble of sigmoid(margin); margins [members, N]."""
    m = np.asarray(margins, np.float64)
    if m.ndim != 2 or len(m) < 2:
        raise UserError(
            f"Disagreement needs margins [members, pairs] of two members or more, got shape {m.shape}.",
            "Score the pairs with several models.",
        )
    return np.asarray(-(0.5 * (1 + np.tanh(m / 2))).std(0))


def random_quality(n: int, *, seed: int) -> Floats:
    """Uniform draws: the control that keeps as many pairs and knows nothing."""
    return np.random.default_rng(seed).random(n)


def keep_fraction(quality: ArrayLike, fraction: float) -> Bools:
    """Bool[N]: the round(fraction * N) best, at least one; ties go to the earlier pair."""
    q = _quality(quality)
    if not 0 < fraction <= 1:
        raise UserError(f"Keeping a fraction of {fraction} is not possible.", "Use more than 0, at most 1.")
    kept = np.zeros(q.size, np.bool_)
    if q.size:
        kept[np.argsort(-q, kind="stable")[: max(1, round(fraction * q.size))]] = True
    return kept


def keep_above(quality: ArrayLike, threshold: float) -> Bools:
    """Bool[N]: quality > threshold, so a margin of exactly 0 does not count as agreement."""
    return np.asarray(_quality(quality) > threshold)


def keep_in_strata(quality: ArrayLike, strata: Sequence[Hashable], fraction: float) -> Bools:
    """Bool[N]: the best fraction within each stratum (topic, source, length bin), so that none is emptied.

    A filter over everything keeps what is easy for the scorer, which changes the mixture of the data.
    """
    q = _quality(quality)
    if len(strata) != q.size:
        raise UserError(f"{len(strata)} strata for {q.size} pairs.", "Give one stratum per pair.")
    kept = np.zeros(q.size, np.bool_)
    for rows in _by_group(strata):
        kept[rows] = keep_fraction(q[rows], fraction)
    return kept


def keep_rows(rows: Sequence[Row], kept: ArrayLike) -> list[Row]:
    """The kept rows, in order."""
    mask = np.asarray(kept)
    if mask.dtype != np.bool_ or mask.shape != (len(rows),):
        raise UserError(f"A mask of shape {mask.shape} for {len(rows)} rows.", "Give one flag per row.")
    return [row for row, keep in zip(rows, mask, strict=True) if keep]


def fold_of(n: int, folds: int, *, seed: int, groups: Sequence[Hashable] | None = None) -> Indices:
    """Int[N]: a random fold per row, equal in size up to one row (up to one group with `groups`).

    Rows of one group (a prompt, say) share a fold, or a model would be scored on a prompt that it has seen.
    """
    if groups is not None and len(groups) != n:
        raise UserError(f"{len(groups)} groups for {n} rows.", "Give one group per row.")
    units = _by_group(groups) if groups is not None else [np.array([i]) for i in range(n)]
    if not 2 <= folds <= len(units):
        raise UserError(
            f"{len(units)} units cannot be cut into {folds} folds.",
            "Use 2 folds or more, at most one a unit.",
        )
    out = np.empty(n, np.intp)
    for position, unit in enumerate(np.random.default_rng(seed).permutation(len(units))):
        out[units[unit]] = position % folds
    return out


def cross_fitted(fit: Fit, fold: Indices, *, train_on: Bools | None = None) -> Floats:
    """Float[N] margins, each by a model fitted without that row's fold.

    `train_on` [N] limits what the models learn from, not what is scored: a pair that an earlier round
    dropped can come back.
    """
    usable = np.ones(fold.size, np.bool_) if train_on is None else train_on
    margin = np.full(fold.size, np.nan)
    for k in np.unique(fold):
        rows = np.flatnonzero((fold != k) & usable)
        if rows.size == 0:
            raise UserError(f"Nothing is left to train on outside fold {k}.", "Keep more pairs.")
        inside = np.flatnonzero(fold == k)
        margin[inside] = fit(rows)(inside)
    return margin


def _by_group(groups: Sequence[Hashable]) -> list[Indices]:
    found: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(group, []).append(i)
    return [np.array(rows, np.intp) for rows in found.values()]


def _quality(quality: ArrayLike) -> Floats:
    q = np.asarray(quality, np.float64)
    if q.ndim != 1 or np.isnan(q).any():
        raise UserError("A pair's quality is not a number.", "Leave out the pairs that could not be scored.")
    return q
