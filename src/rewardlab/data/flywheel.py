"""Refit and refilter in rounds, and stop when a round no longer shows an improvement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rewardlab.core.statistics import Interval, paired_difference
from rewardlab.data.filters import Bools, Fit, Floats, Indices, cross_fitted


@dataclass(frozen=True)
class Round:
    """One round: what it trained on, and how it did on held-out pairs."""

    kept: Bools
    """Bool[N] training pairs; all of them in round 0."""
    accuracy: float
    """Share of held-out labels that it agrees with; a tie counts half."""
    gain: Interval | None
    """Paired over held-out pairs, against the round before; None in round 0."""


@dataclass(frozen=True)
class Flywheel:
    """Every round that ran, and which one to use."""

    rounds: tuple[Round, ...]
    best: int
    """The last round that improved on the one before."""
    stopped: bool
    """False: every round improved, and only `max_rounds` ended it."""


def flywheel(
    fit: Fit,
    fold: Indices,
    heldout: Indices,
    keep: Callable[[Floats], Bools],
    *,
    max_rounds: int = 5,
    level: float = 0.95,
) -> Flywheel:
    """Round r scores all training pairs cross-fitted with models of the pairs kept in round r - 1, keeps
    `keep(margins)` of them and refits; it ends where the interval of the held-out gain is not above 0.

    fold [N]: folds of the training rows 0..N-1; heldout: rows that `fit`'s models can score and that are
    never trained on. Held-out labels may be noisy: symmetric noise shrinks a gain by 1 - 2 * flip rate and
    does not turn it round. The round that showed no gain is recorded but not chosen. Each of up to
    `max_rounds` looks has its own chance of a false gain; lower that with `level`.
    """
    kept = np.ones(fold.size, np.bool_)
    right = _right(fit(np.flatnonzero(kept))(heldout))
    rounds = [Round(kept, float(right.mean()), None)]
    for r in range(1, max_rounds + 1):
        kept = keep(cross_fitted(fit, fold, train_on=kept))
        now = _right(fit(np.flatnonzero(kept))(heldout))
        gain = paired_difference(now, right, level=level).interval
        rounds.append(Round(kept, float(now.mean()), gain))
        if not gain.low > 0:
            return Flywheel(tuple(rounds), r - 1, True)
        right = now
    return Flywheel(tuple(rounds), max_rounds, False)


def _right(margin: Floats) -> Floats:
    return np.asarray((margin > 0) + 0.5 * (margin == 0), np.float64)
