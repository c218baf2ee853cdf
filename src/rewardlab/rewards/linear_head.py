"""A linear head on fixed features, fitted to preferences in double precision, its L2 chosen by prompts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rewardlab.core.errors import UserError
from rewardlab.core.statistics.logistic import fit_logit

Floats = NDArray[np.float64]
Loss = Literal["bradley_terry", "ridge"]


@dataclass(frozen=True)
class Tried:
    """Mean held-out loss and accuracy of one L2 over the folds."""

    l2: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class LinearHead:
    """score = features . weight + bias."""

    weight: Floats
    """Float[D]."""
    bias: float
    """Makes the mean score of the training answers 0."""
    l2: float
    tried: tuple[Tried, ...]

    def __call__(self, features: Floats) -> Floats:
        """Float[N] from Float[N, D]."""
        return features @ self.weight + self.bias


def grouped_folds(groups: Sequence[Hashable], folds: int, *, seed: int) -> NDArray[np.intp]:
    """Int[N]: the fold of each row; rows of one group share a fold, folds differ by at most one group."""
    names = list(dict.fromkeys(groups))
    if folds < 2 or len(names) < folds:
        raise UserError(
            f"{len(names)} different prompts cannot be divided into {folds} folds.",
            "Give more rows, or fewer folds (at least 2).",
        )
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[i]: place % folds for place, i in enumerate(order)}
    return np.array([fold[g] for g in groups], dtype=np.intp)


def fit_head(
    better: Floats,
    worse: Floats,
    p: Floats,
    groups: Sequence[Hashable],
    *,
    l2: Sequence[float],
    seed: int,
    loss: Loss = "bradley_terry",
    folds: int = 5,
    rank: int | None = None,
) -> LinearHead:
    """Fit on pairs of feature rows Float[P, D]; p Float[P] is the probability that `better` is better.

    bradley_terry: mean of -[p log sigma(w.d) + (1-p) log sigma(-w.d)] + l2/2 |w|^2, d the feature
    difference; ridge: mean of (w.d - (2p - 1))^2 / 2 + l2/2 |w|^2. Features are divided by their standard
    deviation over the training answers first (constant ones get weight 0). `rank` keeps the span of that
    many leading singular vectors of d. The L2 with the lowest held-out loss over folds of prompts wins;
    scaling and singular vectors are found anew on each fold's training rows.
    """
    fold = grouped_folds(groups, folds, seed=seed)
    grid = sorted(set(l2), reverse=True)  # strong first: each solution starts the next one
    sums = np.zeros((len(grid), 2))
    for number in range(folds):
        inside = fold != number
        weights = _path(better[inside], worse[inside], p[inside], grid, loss, rank)
        margin = (better[~inside] - worse[~inside]) @ weights.T  # [held out, L]
        target = p[~inside][:, None]
        sums[:, 0] += _losses(margin, target, loss).sum(0)
        sums[:, 1] += ((1 + np.sign(margin) * np.sign(target - 0.5)) / 2).sum(0)
    tried = tuple(Tried(v, float(a), float(b)) for v, (a, b) in zip(grid, sums / len(p)))
    best = min(tried, key=lambda t: t.loss)
    path = grid[: grid.index(best.l2) + 1]
    weight = _path(better, worse, p, path, loss, rank)[-1]
    bias = -float(np.concatenate([better, worse]).mean(0) @ weight)
    return LinearHead(weight, bias, best.l2, tried)


def _path(
    better: Floats, worse: Floats, p: Floats, grid: Sequence[float], loss: Loss, rank: int | None
) -> Floats:
    """Float[L, D]: weights in the features' own units for each L2 of the grid."""
    spread = np.concatenate([better, worse]).std(0)
    varies = spread > 1e-12
    scale = np.where(varies, spread, 1.0)
    d = np.where(varies, (better - worse) / scale, 0.0)
    basis = np.linalg.svd(d, full_matrices=False)[2][:rank].T if rank else None  # [D, R]
    z = d if basis is None else d @ basis
    found, n = [], len(p)
    start: Floats | None = None
    for l2 in grid:
        if loss == "ridge":
            w = np.linalg.solve(z.T @ z + l2 * n * np.eye(z.shape[1]), z.T @ (2 * p - 1))
        else:
            start = fit_logit(z, p, np.full(z.shape[1], l2 * n), start=start)
            w = start[0]
        found.append((w if basis is None else basis @ w) * varies / scale)
    return np.array(found)


def _losses(margin: Floats, target: Floats, loss: Loss) -> Floats:
    if loss == "ridge":
        return (margin - (2 * target - 1)) ** 2 / 2
    return target * np.logaddexp(0, -margin) + (1 - target) * np.logaddexp(0, margin)
