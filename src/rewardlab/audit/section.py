"""What every section of an audit reads and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rewardlab.audit.scoring import Scored
from rewardlab.audit.subject import JudgedSubject, ScoredSubject
from rewardlab.core.statistics import Interval, json_number, t_interval
from rewardlab.core.types import Rollout

Floats = NDArray[np.float64]
Light = Literal["ok", "warn", "fail", "none"]
"""`none`: not measured, or a number that no rule judges."""
ORDER: dict[Light, int] = {"none": 0, "ok": 1, "warn": 2, "fail": 3}


def worst(lights: Sequence[Light]) -> Light:
    """The most severe light; `none` where there is none."""
    return max(lights, key=ORDER.__getitem__, default="none")


@dataclass(frozen=True)
class Measure:
    """One number of a section with its interval and what it says."""

    name: str
    title: str
    value: Interval
    unit: str = ""
    light: Light = "none"
    reference: float | None = None
    """Where "no effect" or "chance" lies."""
    p: float | None = None
    """Of "no effect", adjusted within the family by Holm's method where there is one."""
    flips: Interval | None = None
    """Share of right preferences that turn wrong."""
    note: str = ""
    group: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **self.value.as_dict(),
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "light": self.light,
            "reference": self.reference,
            "p": None if self.p is None else json_number(self.p),
            "flip_rate": None if self.flips is None else self.flips.as_dict(),
            "note": self.note,
            "group": self.group,
        }


@dataclass(frozen=True)
class Section:
    """What one section found."""

    light: Light
    rule: str
    """What sets the light."""
    sentence: str
    """What a reviewer would write."""
    advice: tuple[str, ...] = ()
    """What to do, most useful first."""
    measures: tuple[Measure, ...] = ()
    curves: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "light": self.light,
            "rule": self.rule,
            "sentence": self.sentence,
            "advice": list(self.advice),
            "measures": [m.as_dict() for m in self.measures],
            "curves": dict(self.curves),
            "facts": dict(self.facts),
        }


@dataclass(frozen=True)
class Material:
    """What a section may look at."""

    subject: ScoredSubject | JudgedSubject
    scored: Scored
    """All pairs with their scores; of a judge, half of the margin stands on each side."""
    sample: NDArray[np.intp]
    """Positions of the pairs that probes edit: a seeded sample."""
    card: Mapping[str, Any]
    """What `audit_reward` says of the same pairs."""
    seed: int
    level: float = 0.95
    half_width: float = 0.02
    """The wanted half-width of the interval of an accuracy."""
    subset_field: str = "subset"
    leaderboard: Mapping[str, float] = field(default_factory=dict)
    own_system: str = ""
    attack_calls: int = 2000
    variants: Mapping[str, ScoredSubject] = field(default_factory=dict)
    """The same reward rendered differently, by the name of its chat template."""
    best_of_n: Mapping[str, Any] | None = None
    """What `evaluation.best_of_n` returned with columns `proxy` and `reference`."""

    def pair(self, position: int) -> tuple[Rollout, Rollout]:
        """Winner and loser of a pair."""
        better, worse = self.scored.rollouts[2 * position : 2 * position + 2]
        return better, worse

    @property
    def unit(self) -> float:
        """The standard deviation of a score; of a judge, that of a margin over sqrt 2."""
        if self.subject.pairwise:
            spread = float(np.sqrt(np.mean(self.scored.margin**2) / 2))
            return spread if spread > 0 else 1.0
        return self.scored.unit


SectionOf = Callable[[Material], Section]


def effect(values: Floats, level: float = 0.95) -> tuple[Interval, float]:
    """Mean with Student's interval, and the two-sided p-value of zero; equal values have p 0 or 1."""
    kept = values[np.isfinite(values)]
    interval = t_interval(kept, level=level)
    if kept.size < 2:
        return interval, 1.0
    if float(np.ptp(kept)) <= 1e-12 * max(1.0, float(np.abs(kept).max())):
        return interval, float(abs(interval.estimate) < 1e-9)
    return interval, float(stats.ttest_1samp(kept, 0.0).pvalue)


def percent(x: Interval) -> str:
    """`70.1% (65.0 to 75.2)`."""
    return f"{100 * x.estimate:.1f}% ({100 * x.low:.1f} to {100 * x.high:.1f})"


def plain(x: Interval) -> str:
    """`+0.31 (+0.10 to +0.52)`."""
    return f"{x.estimate:+.2f} ({x.low:+.2f} to {x.high:+.2f})"
