"""Does the reward pay for length?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rewardlab.audit.accuracy import rate
from rewardlab.audit.scoring import Scored
from rewardlab.core.statistics import Interval, newcombe, ratio_interval
from rewardlab.core.types import Rollout

Floats = NDArray[np.float64]
LengthOf = Callable[[Rollout], float]


def characters(rollout: Rollout) -> float:
    """Length of the answer's text."""
    return float(len(rollout.text))


def log_lengths(scored: Scored, length_of: LengthOf) -> Floats:
    """Float[P, 2]: natural log of the winner's and loser's length; lengths under 1 count as 1."""
    logs = [math.log(max(length_of(r), 1.0)) for r in scored.rollouts]
    return np.array(logs, dtype=np.float64).reshape(-1, 2)


def length_slopes(scored: Scored, logs: Floats, *, seed: int, level: float = 0.95) -> dict[str, Interval]:
    """Change of the score, in its own standard deviations, per unit of log length.

    length_slope: within prompts, the regression through the origin of the score difference of a pair on
    its difference of log length (which of the two answers comes first cannot matter).
    length_slope_marginal: over all answers, so easy prompts with long answers count too.
    length_slope_given_gold: as the first, with the gold difference as a second regressor, so that a
    length that comes with quality is not blamed; only where every pair has gold values.
    Intervals resample pairs. Doubling the length changes the score by slope * ln 2.
    """
    y = np.stack([scored.better, scored.worse], 1) / scored.unit  # [P, 2]
    dx, dy = logs[:, 0] - logs[:, 1], y[:, 0] - y[:, 1]
    x_centred, y_centred = logs - logs.mean(), y - y.mean()
    out = {
        "length_slope": ratio_interval(dx * dy, dx * dx, seed=seed, level=level),
        "length_slope_marginal": ratio_interval(
            (x_centred * y_centred).sum(1), (x_centred**2).sum(1), seed=seed, level=level
        ),
    }
    where, (better, worse) = scored.meta("gold_chosen", "gold_rejected")
    if where.size == len(scored.pairs):
        gold = better - worse
        power = float(gold @ gold)
        # Frisch-Waugh: regress what gold leaves unexplained of one on what it leaves of the other.
        rx = dx - gold * float(gold @ dx) / power if power else dx
        ry = dy - gold * float(gold @ dy) / power if power else dy
        # A reward that is the gold value leaves only rounding errors, which must not look like a slope.
        ry = np.where(np.abs(ry) > 1e-9 * np.abs(dy).max(), ry, 0.0)
        out["length_slope_given_gold"] = ratio_interval(rx * ry, rx * rx, seed=seed, level=level)
    return out


def longer_is_better(logs: Floats) -> Floats:
    """Float[P]: how the baseline "prefer the longer answer" does: 1, 1/2 at equal length, or 0."""
    return (1 + np.sign(logs[:, 0] - logs[:, 1])) / 2


def accuracy_by_length(scored: Scored, baseline: Floats, *, level: float = 0.95) -> dict[str, Interval]:
    """The reward's accuracy where the better answer is the longer and where it is the shorter one.

    length_accuracy_gap is the first minus the second (Newcombe's method 10).
    """
    longer, shorter = scored.correct[baseline == 1], scored.correct[baseline == 0]
    return {
        "accuracy_longer_better": rate(longer, level=level),
        "accuracy_shorter_better": rate(shorter, level=level),
        "length_accuracy_gap": newcombe(
            float(longer.sum()), longer.size, float(shorter.sum()), shorter.size, level=level
        ),
    }
