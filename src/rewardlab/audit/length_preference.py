"""Does a judge pay for length? Its preferences against the length difference, other things held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from rewardlab.audit.win_rates import Preferences, length_term
from rewardlab.core.statistics import ratio_interval
from rewardlab.core.statistics.interval import Floats
from rewardlab.core.statistics.logistic import clustered_intervals, fit_logit

BANDS = (
    ("less than half as long", 0.0, 0.5),
    ("half to 0.9 times", 0.5, 0.9),
    ("matched (0.9 to 1.1 times)", 0.9, 1.1),
    ("1.1 to 2 times", 1.1, 2.0),
    ("more than twice as long", 2.0, np.inf),
)
"""Name and limits of the length ratio system / baseline."""


def length_preference(
    systems: Mapping[str, Preferences], difficulty: Mapping[int, float], *, seed: int, level: float = 0.95
) -> dict[str, Any]:
    """How a judge's preference moves with length, over all systems; intervals cluster by instruction.

    prefers_longer: mean of the probability given to the longer answer. It says nothing of bias alone:
    better systems may write longer answers. So also, with one intercept per system and the difficulty:
    odds_per_doubling: exp(beta) of logit p = beta log2(length ratio) + psi difficulty + theta_system;
    length_coefficient: the same with tanh(difference / sd), AlpacaEval's term.
    bands: by length ratio, the observed win rate, the one expected from system and difficulty alone, and
    their difference, all in percent. What remains may still be quality that comes with length within
    one system; a judge blind to length would show it too.
    """
    parts = list(systems.values())
    p = np.concatenate([s.p for s in parts])
    where = np.concatenate([s.instruction for s in parts])
    length = np.maximum(np.concatenate([s.length for s in parts]), 1.0)
    baseline = np.maximum(np.concatenate([s.baseline_length for s in parts]), 1.0)
    system = np.repeat(np.arange(len(parts)), [len(s) for s in parts])
    hard = np.array([difficulty.get(int(i), 0.0) for i in where])
    own = np.eye(len(parts))[system]
    ratio = length / baseline
    _, cluster = np.unique(where, return_inverse=True)

    def share(values: Floats, use: Floats) -> dict[str, float | int | None]:
        """Mean over the rows used, in percent."""
        top, rows = (np.bincount(cluster, v) for v in (values * use, use))
        found = ratio_interval(100 * top, rows, seed=seed, level=level).as_dict()
        return {**found, "n": int(use.sum())}

    def coefficient(term: Floats) -> Any:
        x = np.column_stack([term, hard, own])
        return clustered_intervals(x, p, _ridge(x), cluster, level=level)[0]

    doubling, tanh = coefficient(np.log2(ratio)), coefficient(length_term(length, baseline))
    without = np.column_stack([hard, own])
    expected = expit(without @ fit_logit(without, p, _ridge(without))[0])
    bands = []
    for name, low, high in BANDS:
        use = ((ratio >= low) & (ratio < high)).astype(float)
        if use.sum():
            row = {"observed": share(p, use), "expected": share(expected, use)["estimate"]}
            bands.append({"band": name, **row, "excess": share(p - expected, use)})
    longer = np.where(length > baseline, p, 1 - p)
    return {
        "prefers_longer": share(longer, (length != baseline).astype(float)),
        "length_coefficient": tanh.as_dict(),
        "odds_per_doubling": {
            "estimate": float(np.exp(doubling.estimate)),
            "low": float(np.exp(doubling.low)),
            "high": float(np.exp(doubling.high)),
            "n": doubling.n,
        },
        "bands": bands,
        "rows": len(p),
    }


def matched_win_rate(
    data: Preferences, *, seed: int, within: float = 0.1, level: float = 0.95
) -> dict[str, Any]:
    """Win rate in percent over answers whose length is within a share of the baseline's."""
    ratio = np.maximum(data.length, 1.0) / np.maximum(data.baseline_length, 1.0)
    use = ((ratio >= 1 - within) & (ratio <= 1 + within)).astype(float)
    return {**ratio_interval(100 * data.p * use, use, seed=seed, level=level).as_dict(), "n": int(use.sum())}


def _ridge(x: Floats) -> Floats:
    """Just enough that a system that always wins has a finite intercept."""
    return np.full(x.shape[1], 1e-2)
