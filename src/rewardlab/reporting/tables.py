"""Tables of policies and of paired differences, as panels that share one scale per metric."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rewardlab.reporting.glossary import METRICS, Metric, metric, policy_label
from rewardlab.reporting.intervals import (
    Interval,
    digits_for,
    finite,
    read_difference,
    read_interval,
    show_bounds,
    show_interval,
    show_number,
    show_p,
)

HEADLINE = ("gold", "proxy", "win_rate_vs_sft", "kl", "length", "entropy")
ORDER = tuple(METRICS)


@dataclass(frozen=True)
class Row:
    """One line of a panel."""

    label: str
    interval: Interval
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A row as drawn: texts, and positions of its whisker in percent of the scale."""

    label: str
    estimate: str
    bounds: str
    n: str
    value: float
    at: float
    low: float | None
    high: float | None
    extra: dict[str, str]


@dataclass(frozen=True)
class Panel:
    """All rows of one metric on one scale."""

    name: str
    metric: Metric
    lines: list[Line]
    start: str
    end: str
    """The scale's ends, as text."""
    reference: float | None
    """Where "no effect" lies, in percent, if on the scale."""
    common_n: str
    """The sample size if all lines share it, else empty."""


def panel(name: str, rows: list[Row], *, signed: bool = False, reference: float | None = None) -> Panel:
    """Lay rows out on a common scale that holds every bound and, if given, the reference value."""
    about = metric(name)
    reference = about.reference if reference is None else reference
    intervals = [row.interval for row in rows]
    values = [v for i in intervals for v in (i.estimate, i.low, i.high) if v is not None]
    if reference is not None:
        values.append(reference)
    low, high = _scale(min(values), max(values))

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - low) / (high - low), 2)

    digits = digits_for(intervals)
    lines = [
        Line(
            row.label,
            show_number(row.interval.estimate, digits, signed=signed),
            show_bounds(row.interval, digits),
            "–" if row.interval.n is None else f"{row.interval.n:,}",
            row.interval.estimate,
            place(row.interval.estimate) or 0.0,
            place(row.interval.low),
            place(row.interval.high),
            row.extra,
        )
        for row in rows
    ]
    ends = [f"{v:.4g}".replace("-", "−") for v in (low, high)]
    sizes = {line.n for line in lines}
    common_n = sizes.pop() if len(sizes) == 1 and sizes != {"–"} else ""
    return Panel(name, about, lines, ends[0], ends[1], place(reference), common_n)


def _scale(low: float, high: float) -> tuple[float, float]:
    """Round ends a little outside the values, so that dots do not touch the edge."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span)) / 2
    return math.floor((low - 0.02 * span) / step) * step, math.ceil((high + 0.02 * span) / step) * step


def policy_intervals(summary: dict[str, Any]) -> dict[str, dict[str, Interval]]:
    """Metric -> policy -> interval, metrics in the glossary's order and unknown ones after."""
    policies: dict[str, Any] = summary.get("policies") or {}
    found: dict[str, dict[str, Interval]] = {}
    for policy, values in policies.items():
        for name, value in (values or {}).items():
            interval = read_interval(value)
            if interval is not None:
                found.setdefault(name, {})[policy] = interval
    names = sorted(found, key=lambda k: ORDER.index(k) if k in ORDER else len(ORDER))
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class Cell:
    """A cell of the table of policies."""

    estimate: str
    bounds: str
    value: float | None


def policy_table(summary: dict[str, Any]) -> tuple[list[Metric], list[tuple[str, bool, list[Cell]]]]:
    """Columns, then per policy its label, whether it is the baseline, and its cells.

    Gold and proxy keep their columns even where nothing measured them: that is worth seeing.
    """
    found = policy_intervals(summary)
    names = [n for n in HEADLINE if n in found or n in ("gold", "proxy")]
    digits = {n: digits_for(found.get(n, {}).values()) for n in names}
    rows = []
    for policy in summary.get("policies") or {}:
        cells = []
        for name in names:
            interval = found.get(name, {}).get(policy)
            if interval is None:
                cells.append(Cell("not measured" if name not in found else "–", "", None))
            else:
                text = show_number(interval.estimate, digits[name])
                cells.append(Cell(text, show_bounds(interval, digits[name]), interval.estimate))
        rows.append((policy_label(policy), policy == summary.get("baseline"), cells))
    return [metric(n) for n in names], rows


def policy_panels(summary: dict[str, Any]) -> list[Panel]:
    """One panel per metric with a line per policy: every stored interval appears here."""
    return [
        panel(name, [Row(policy_label(p), i) for p, i in rows.items()])
        for name, rows in policy_intervals(summary).items()
    ]


def difference_panels(summary: dict[str, Any]) -> list[Panel]:
    """One panel per compared metric: a line per policy with its difference, reading and p-values."""
    rows: dict[str, list[Row]] = {}
    for comparison in summary.get("comparisons") or []:
        interval = read_interval(comparison)
        if interval is None:
            continue
        against = policy_label(str(comparison.get("baseline", summary.get("baseline", "?"))))
        label = f"{policy_label(str(comparison.get('policy', '?')))} − {against}"
        extra = {"reading": read_difference(interval), "p": show_p(comparison.get("p"))}
        extra |= {"p_holm": show_p(comparison.get("p_holm")), "full": show_interval(interval, signed=True)}
        holm = finite(comparison.get("p_holm"))
        extra["weak"] = "yes" if holm is not None and holm > 0.05 else ""
        rows.setdefault(str(comparison.get("metric", "?")), []).append(Row(label, interval, extra))
    names = sorted(rows, key=lambda k: ORDER.index(k) if k in ORDER else len(ORDER))
    return [panel(name, rows[name], signed=True, reference=0.0) for name in names]
