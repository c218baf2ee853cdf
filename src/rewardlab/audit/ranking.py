"""Aggregates of benchmarks: subsets, best of k answers, styles, systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rewardlab.core.statistics import Interval, bounded_mean_interval

Floats = NDArray[np.float64]


def subset_rates(
    correct: Floats, subsets: Sequence[str], *, level: float = 0.95
) -> tuple[dict[str, Interval], Interval]:
    """Accuracy in each subset, and the mean of the subsets' accuracies.

    RewardBench (Lambert et al. 2024, arXiv 2403.13787) averages its four sections so; inside a section it
    counts by prompts. Ties are 1/2. The mean counts a small subset like a large one; its interval adds the
    variances of the subsets, each with one pseudo-pair right and one wrong.
    """
    names = np.asarray(subsets)
    rates = {str(s): bounded_mean_interval(correct[names == s], level=level) for s in dict.fromkeys(subsets)}
    variance = 0.0
    for s in rates:
        x = correct[names == s]
        m = (x.sum() + 1) / (x.size + 2)
        variance += float((((x - m) ** 2).sum() + m**2 + (1 - m) ** 2) / (x.size + 2) / x.size)
    mean = float(np.mean([r.estimate for r in rates.values()]))
    half = float(stats.norm.ppf(0.5 + level / 2)) * np.sqrt(variance) / len(rates)
    return rates, Interval(mean, max(0.0, mean - half), min(1.0, mean + half), correct.size, level)


def best_of_k(better: ArrayLike, others: Sequence[ArrayLike], *, level: float = 0.95) -> Interval:
    """Share of prompts whose best answer scores above all its others (RewardBench 2, arXiv 2506.01937).

    better: Float[N]; others: for each prompt the scores of the other answers. An answer that ties with m
    others for the top counts 1 / (m + 1).
    """
    hits = []
    for top, rest in zip(np.asarray(better, dtype=np.float64), others):
        scores = np.asarray(rest, dtype=np.float64)
        hits.append(0.0 if (scores > top).any() else 1.0 / (1 + int((scores == top).sum())))
    return bounded_mean_interval(hits, level=level)


def style_matrix(
    correct: Floats, chosen: NDArray[np.intp], rejected: NDArray[np.intp], *, level: float = 0.95
) -> tuple[list[list[float | None]], dict[str, Interval]]:
    """Accuracy by style of the chosen answer (row) and of the rejected one (column), and RM-Bench's means.

    Styles: 0 concise, 1 detailed, 2 detailed with markdown. easy: the chosen one is in the richer style;
    normal: both in one style; hard: the rejected one is in the richer style (arXiv 2410.16184).
    """
    matrix: list[list[float | None]] = []
    for i in range(3):
        cells = [correct[(chosen == i) & (rejected == j)] for j in range(3)]
        matrix.append([float(c.mean()) if c.size else None for c in cells])
    at = {"easy": chosen > rejected, "normal": chosen == rejected, "hard": chosen < rejected}
    return matrix, {k: bounded_mean_interval(correct[m], level=level) for k, m in at.items() if m.any()}


def rank_systems(
    scores: Mapping[str, ArrayLike], leaderboard: Mapping[str, float], *, seed: int, level: float = 0.95
) -> dict[str, Interval] | None:
    """Kendall's tau and Spearman's rho between the systems' mean scores and their given values.

    Bootstrap over the answers of each system (percentile interval, 1000 resamples). None with fewer than
    three systems in both.
    """
    systems = [s for s in scores if s in leaderboard]
    if len(systems) < 3:
        return None
    given = np.array([leaderboard[s] for s in systems])
    columns = [np.asarray(scores[s], dtype=np.float64) for s in systems]
    rng = np.random.default_rng(seed)
    draws = np.stack([c[rng.integers(0, c.size, (1000, c.size))].mean(1) for c in columns], 1)
    means = np.array([c.mean() for c in columns])

    def both(x: Floats) -> tuple[float, float]:
        return float(stats.kendalltau(x, given)[0]), float(stats.spearmanr(x, given)[0])

    at = np.array(both(means))
    spread = np.array([both(row) for row in draws])
    low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    named: dict[str, Interval] = {}
    for i, name in enumerate(("kendall", "spearman")):
        named[name] = Interval(float(at[i]), float(low[i]), float(high[i]), len(systems), level)
    return named


def groups_of_best(pairs: Sequence[Any]) -> list[list[int]]:
    """Positions of pairs that share prompt and chosen answer, two or more each."""
    found: dict[Any, list[int]] = {}
    for i, pair in enumerate(pairs):
        found.setdefault((pair.prompt, pair.chosen), []).append(i)
    return [rows for rows in found.values() if len(rows) > 1]
