"""Each policy against the baseline, metric by metric, paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from rewardlab.core.statistics import (
    Difference,
    Interval,
    bounded_mean_interval,
    holm,
    newcombe_paired,
    paired_difference,
)
from rewardlab.evaluation.measure import Floats, Measure


def paired_rates(a: Floats, b: Floats, level: float) -> Difference:
    """Two rates on the same prompts, one yes/no each: Newcombe's paired interval, exact McNemar test."""
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    both, neither = int(((a == 1) & (b == 1)).sum()), int(((a == 0) & (b == 0)).sum())
    discordant = only_a + only_b
    p = float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return Difference(newcombe_paired(both, only_a, only_b, neither, level=level), p)


def compare(mine: Measure, base: Measure, level: float) -> Difference:
    """Difference over the prompts where both policies have a value.

    Student's paired test on the values per prompt, which for ratios and corpus statistics are
    pseudo-values (so this is the jackknife test); rates with one answer per prompt use `paired_rates`.
    """
    shared = np.isfinite(mine.values) & np.isfinite(base.values)
    a, b = mine.values[shared], base.values[shared]
    if mine.bounded and base.bounded and np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return paired_rates(a, b, level)
    return paired_difference(a, b, level=level)


def against_even(wins: Measure, level: float) -> Difference:
    """A win rate minus 1/2, with the interval of the win rate itself and the t-test of "even"."""
    values = wins.values[np.isfinite(wins.values)]
    at = bounded_mean_interval(values, level=level)
    shifted = Interval(at.estimate - 0.5, at.low - 0.5, at.high - 0.5, at.n, level)
    return Difference(shifted, paired_difference(values - 0.5, level=level).p)


def comparison_table(
    measures: Mapping[str, Mapping[str, Measure]], baseline: str, win_rate: str, level: float
) -> list[dict[str, Any]]:
    """One row per policy and metric, policy minus baseline; Holm's correction over the whole table."""
    rows: list[dict[str, Any]] = []
    for policy, metrics in measures.items():
        if policy == baseline:
            continue
        for metric, mine in metrics.items():
            if metric == win_rate:
                difference = against_even(mine, level)
            elif metric in measures[baseline]:
                difference = compare(mine, measures[baseline][metric], level)
            else:
                continue
            rows.append({"policy": policy, "baseline": baseline, "metric": metric, **difference.as_dict()})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows])):
        row["p_holm"] = adjusted
    return rows
