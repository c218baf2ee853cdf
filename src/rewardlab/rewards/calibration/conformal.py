"""Abstention on pairs whose margin is too small, with a bound on errors that needs no model of the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardlab.core.errors import UserError


@dataclass(frozen=True, slots=True)
class ConformalPairs:
    """Decides a pair where |margin| > threshold, abstains elsewhere (and always at margin 0)."""

    threshold: float
    alpha: float
    n: int
    """Calibration pairs behind it."""

    def decide(self, margin: ArrayLike) -> NDArray[np.int64]:
        """Int[N]: 1 the first answer is better, -1 the second, 0 abstain."""
        m = np.asarray(margin, np.float64)
        return np.where(np.abs(m) > self.threshold, np.sign(m), 0).astype(np.int64)


def fit_conformal(margin: ArrayLike, *, alpha: float) -> ConformalPairs:
    """Split conformal prediction of which answer is better (Vovk, Gammerman and Shafer 2005).

    margin [N]: score(better) - score(worse) of calibration pairs with trusted labels. The set of directions d
    with -d * margin <= q, where q is the ceil((N + 1)(1 - alpha))-th smallest of -margin, holds the right one
    with probability at least 1 - alpha if new pairs are exchangeable with these; where it holds both, the
    answer is to abstain. A q below 0 is raised to 0, which only enlarges the sets. So

    P(decided and wrong) <= alpha,

    over the draw of calibration and new pair together. It is not the error rate among the decided ones: for
    that see `sgr`. With N < 1 / alpha - 1 no q is large enough, and everything is abstained from.
    """
    m = np.asarray(margin, np.float64)
    if m.ndim != 1 or not np.isfinite(m).all():
        raise UserError("Calibration margins must be a list of finite numbers.", "Leave out unscored pairs.")
    if not 0 < alpha < 1:
        raise UserError(f"alpha={alpha} is not between 0 and 1.", "Use for example 0.1.")
    rank = math.ceil((m.size + 1) * (1 - alpha) - 1e-9)
    q = float(np.sort(-m)[rank - 1]) if rank <= m.size else math.inf
    return ConformalPairs(max(0.0, q), alpha, m.size)
