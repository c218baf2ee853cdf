"""The reward model's report card: headline numbers, three charts with their tables, and the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from rewardlab.reporting.curves import Figure
from rewardlab.reporting.glossary import metric
from rewardlab.reporting.intervals import (
    Interval,
    finite,
    read_interval,
    show_bounds,
    show_interval,
    show_number,
)
from rewardlab.reporting.svg import FIRST, MUTED, chart, inline, name_y
from rewardlab.reporting.tables import Panel, Row, panel

ACCURACIES = ("bayes_accuracy", "accuracy_gold", "accuracy", "length_baseline_accuracy")
OTHERS = ("ece", "ece_debiased", "brier", "length_slope")
SYMBOLS = {"ok": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class ChartWithTable:
    """A chart and the numbers it was drawn from, as text."""

    figure: Figure
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Card:
    """Everything the page shows of a reward model."""

    accuracy: Panel | None
    others: list[tuple[str, str, str, str]]
    """Label, `estimate`, `[low, high]`, unit."""
    charts: list[ChartWithTable]
    checks: list[tuple[str, str, str, str]]
    """Verdict, symbol, name of the check, text."""
    counts: list[tuple[str, str]]
    missing: list[str]
    """Labels of the headline numbers that were not measured."""


def reward_card(card: dict[str, Any]) -> Card:
    """The stored card, laid out; what it does not hold is listed as missing."""
    rows = [Row(metric(k).label, i) for k in ACCURACIES if (i := read_interval(card.get(k))) is not None]
    lists = ("curves", "counts", "verdicts", "padding_probe", *ACCURACIES)
    others = []
    for key in dict.fromkeys((*OTHERS, *card)):
        interval = read_interval(card.get(key)) if key not in lists else None
        if interval is not None:
            digits_of = show_interval(interval).split(" ")[0]
            others.append((metric(key).label, digits_of, show_bounds(interval), metric(key).unit))
    wanted = (*ACCURACIES, *OTHERS)
    curves = card.get("curves") or {}
    charts = [
        _reliability(curves.get("reliability") or []),
        _deciles(curves.get("margin_deciles") or []),
        _padding(card.get("padding_probe") or []),
    ]
    return Card(
        panel("accuracy", rows) if rows else None,
        others,
        [c for c in charts if c is not None],
        [_check(v) for v in card.get("verdicts") or []],
        [(str(k).replace("_", " "), _count(v)) for k, v in (card.get("counts") or {}).items()],
        [metric(k).label for k in wanted if read_interval(card.get(k)) is None],
    )


def _check(row: dict[str, Any]) -> tuple[str, str, str, str]:
    verdict = str(row.get("verdict", "?"))
    name = str(row.get("check", "")).replace("_", " ")
    return verdict, SYMBOLS.get(verdict, "?"), name, str(row.get("text", ""))


def _count(value: object) -> str:
    number = finite(value)
    return str(value) if number is None else f"{number:,.6g}"


def _points(rows: list[dict[str, Any]], x: str, y: str) -> list[tuple[float, Interval, dict[str, Any]]]:
    found = []
    for row in rows:
        at, interval = finite(row.get(x)), read_interval({**row, "estimate": row.get(y)})
        if at is not None and interval is not None:
            found.append((at, interval, row))
    return found


def _whiskers(ax: Axes, found: list[tuple[float, Interval, dict[str, Any]]], line: str = "") -> None:
    """Dots joined by a thin line, each with its interval."""
    xs, ys = [x for x, _, _ in found], [i.estimate for _, i, _ in found]
    for x, interval, _ in found:
        if interval.low is not None and interval.high is not None:
            ax.plot([x, x], [interval.low, interval.high], color=FIRST, linewidth=1.3)
    ax.plot(xs, ys, color=FIRST, marker="o", markersize=4, linewidth=1, linestyle=line or "none")


def _n(interval: Interval) -> str:
    return "–" if interval.n is None else f"{interval.n:,}"


def _reliability(rows: list[dict[str, Any]]) -> ChartWithTable | None:
    found = _points(rows, "predicted", "observed")
    if not found:
        return None
    with chart(250) as (figure, (ax,)):
        ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
        _whiskers(ax, found, "-")
        ax.set_xlabel("predicted probability of the preference")
        name_y(ax, "observed share")
        text = "; ".join(f"predicted {show_number(x, 2)}, observed {show_interval(i)}" for x, i, _ in found)
        svg = inline(figure, "reliability", "Reliability of the predicted preference", f"{text}.")
    return ChartWithTable(
        Figure("Reliability", "Dotted: perfect calibration.", svg),
        ["predicted", "observed", "low – high", "n"],
        [[show_number(x, 3), show_interval(i).split(" ")[0], show_bounds(i), _n(i)] for x, i, _ in found],
    )


def _deciles(rows: list[dict[str, Any]]) -> ChartWithTable | None:
    found = _points(rows, "margin", "accuracy")
    if not found:
        return None
    with chart(250) as (figure, (ax,)):
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1)
        _whiskers(ax, found, "-")
        ax.set_xlabel("score margin between the two answers")
        name_y(ax, "accuracy")
        text = "; ".join(f"margin {show_number(x)}, accuracy {show_interval(i)}" for x, i, _ in found)
        svg = inline(figure, "margin-deciles", "Accuracy by decile of the score margin", f"{text}.")
    return ChartWithTable(
        Figure("Accuracy by margin decile", "Dotted: chance.", svg),
        ["margin", "accuracy", "low – high", "n"],
        [[show_number(x), show_interval(i).split(" ")[0], show_bounds(i), _n(i)] for x, i, _ in found],
    )


def _padding(rows: list[dict[str, Any]]) -> ChartWithTable | None:
    found = _points(rows, "sentences", "estimate")
    if not found:
        return None
    with chart(250) as (figure, (ax,)):
        ax.axhline(0, color=MUTED, linestyle=":", linewidth=1)
        _whiskers(ax, found, "-")
        ax.set_xticks([x for x, _, _ in found])
        ax.set_xlabel("empty sentences added")
        name_y(ax, "change of the score")
        text = "; ".join(f"{x:g} sentences: {show_interval(i, signed=True)}" for x, i, _ in found)
        svg = inline(figure, "padding-probe", "Change of the score when padding is added", f"{text}.")
    table = []
    for x, interval, row in found:
        flips = read_interval(row.get("flip_rate"))
        change = show_interval(interval, signed=True).split(" ")[0]
        cells = [f"{x:g}", change, show_bounds(interval), show_interval(flips) if flips else "–"]
        table.append([*cells, _n(interval)])
    return ChartWithTable(
        Figure("Padding probe", "Dotted: no change. An honest score does not rise with padding.", svg),
        ["sentences", "change", "low – high", "flip rate", "n"],
        table,
    )
