"""One metric of one policy, reduced to one value per prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewardlab.core.statistics import (
    Interval,
    bounded_mean_interval,
    mean_interval,
    ratio_interval,
    t_interval,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """An interval over prompts, and the values per prompt that paired comparisons need.

    For a mean, `values` are the prompts' own means, nan where a prompt has none (every score abstained
    or failed). For a ratio or a corpus statistic they are centred pseudo-values, estimate + influence
    of the prompt, so their mean is the estimate and their spread its standard error.
    """

    interval: Interval
    values: Floats
    """Float[P]."""
    bounded: bool = False
    """The values are rates or wins in [0, 1]."""


def within_prompts(values: Sequence[float], rows: Sequence[Sequence[int]]) -> Floats:
    """Float[P]: mean over each prompt's rollouts, leaving nan values out; nan where none is left."""
    flat = np.asarray(values, dtype=np.float64)
    out = np.full(len(rows), np.nan)
    for i, positions in enumerate(rows):
        here = flat[list(positions)]
        here = here[np.isfinite(here)]
        if here.size:
            out[i] = here.mean()
    return out


def mean_measure(per_prompt: Floats, seed: int, level: float) -> Measure:
    """Mean over the prompts that have a value."""
    return Measure(mean_interval(_finite(per_prompt), seed=seed, level=level), per_prompt)


def bounded_measure(per_prompt: Floats, level: float) -> Measure:
    """Mean of rates or wins within prompts; Wilson's interval where each prompt has one yes/no answer."""
    return Measure(bounded_mean_interval(_finite(per_prompt), level=level), per_prompt, bounded=True)


def ratio_measure(numerator: Floats, denominator: Floats, seed: int, level: float) -> Measure:
    """Ratio of totals over prompts, such as KL per token; pseudo-values by linearisation."""
    interval = ratio_interval(numerator, denominator, seed=seed, level=level)
    total = denominator.sum()
    if not total:
        return Measure(interval, np.full(numerator.size, np.nan))
    influence = (numerator - interval.estimate * denominator) * numerator.size / total
    return Measure(interval, interval.estimate + influence)


def jackknife_measure(estimate: float, leave_one_out: Floats, level: float) -> Measure:
    """A corpus statistic with its jackknife error: pseudo-values centred on the estimate itself.

    v_i = estimate + (P - 1) (mean of the leave-one-out values - leave-one-out value i).
    """
    values = estimate + (leave_one_out.size - 1) * (leave_one_out.mean() - leave_one_out)
    return Measure(t_interval(values, level=level), values)


def in_unit_range(values: Iterable[Floats]) -> bool:
    """Whether every value there is lies in [0, 1]."""
    flat = _finite(np.concatenate(list(values)))
    return bool(((flat >= 0) & (flat <= 1)).all())


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]
