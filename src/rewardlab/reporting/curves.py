"""Learning curves of a stage, drawn from its metrics as they were written.

Nothing is smoothed. A long curve is thinned to the highest and the lowest row of each bin of steps, so that
its envelope stays; every point drawn is a row of the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from rewardlab.reporting.folder import Row
from rewardlab.reporting.glossary import metric
from rewardlab.reporting.intervals import finite, show_number
from rewardlab.reporting.svg import FIRST, MUTED, SECOND, chart, inline, name_y

TOGETHER = {"loss": "eval_loss", "accuracy": "eval_accuracy", "chosen_logp": "rejected_logp"}
FIRST_SHOWN = ("loss", "accuracy", "margin", "chosen_logp", "kl", "entropy", "length", "grad_norm")
MOST_CHARTS = 14
BINS = 200
FEW = 30
"""Up to this many points each one gets a marker."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    caption: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class StageCurves:
    """All charts of one stage."""

    name: str
    reward: Figure | None
    """Proxy beside gold; None for a stage that logs no reward."""
    charts: list[Figure]
    left_out: list[str]
    """Metrics that are in the file and not drawn."""


def points(rows: list[Row], name: str) -> Points:
    """(step, value) of the rows that hold this metric as a number; NaN where it was logged as not finite."""
    found: Points = []
    for row in rows:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found.append((row["step"], value if math.isfinite(value) else math.nan))
    return found if any(not math.isnan(y) for _, y in found) else []


def thin(curve: Points, bins: int = BINS) -> Points:
    """At most about `2 * bins + 2` of the points: first, last, and the extremes of each bin of rows."""
    if len(curve) <= 2 * bins:
        return curve
    size = math.ceil(len(curve) / bins)
    kept = {0, len(curve) - 1}
    for start in range(0, len(curve), size):
        block = [i for i in range(start, min(start + size, len(curve))) if not math.isnan(curve[i][1])]
        if block:
            kept |= {min(block, key=lambda i: curve[i][1]), max(block, key=lambda i: curve[i][1])}
    return [curve[i] for i in sorted(kept)]


def stage_curves(name: str, rows: list[Row]) -> StageCurves:
    """Charts of every metric that this stage logged, the known ones first."""
    names = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
    proxy = "reward" if "reward" in names else "proxy"
    has_reward = bool(points(rows, proxy))
    drawn = {proxy, "gold"} if has_reward else set()
    plan: list[tuple[str, ...]] = []
    for key in sorted(names, key=lambda k: FIRST_SHOWN.index(k) if k in FIRST_SHOWN else len(FIRST_SHOWN)):
        if key in drawn:
            continue
        pair = tuple(k for k in (key, TOGETHER.get(key, key)) if points(rows, k))
        pair = tuple(dict.fromkeys(pair))
        drawn |= set(pair)
        if pair:
            plan.append(pair)
    shown, rest = plan[:MOST_CHARTS], plan[MOST_CHARTS:]
    return StageCurves(
        name,
        _proxy_and_gold(name, rows, proxy) if has_reward else None,
        [_metric_chart(name, rows, keys) for keys in shown],
        [key for keys in rest for key in keys],
    )


def _proxy_and_gold(stage: str, rows: list[Row], proxy_name: str) -> Figure:
    proxy, gold = points(rows, proxy_name), points(rows, "gold")
    with chart(270 if gold else 170, 2 if gold else 1) as (figure, axes):
        texts = ("proxy reward (what is optimised)", "gold reward (never seen by the learner)")
        for ax, curve, text, colour in zip(axes, (proxy, gold), texts, (FIRST, SECOND)):
            _draw(ax, curve, colour, "-")
            first = next(y for _, y in curve if not math.isnan(y))
            ax.axhline(first, color=MUTED, linewidth=0.8, linestyle=":")
            name_y(ax, text)
        axes[-1].set_xlabel("step")
        spoken = _spoken("Proxy reward", proxy)
        spoken += " " + (_spoken("Gold reward", gold) if gold else "Gold was not measured.")
        svg = inline(figure, f"reward/{stage}", f"{stage}: proxy and gold reward by step", spoken)
    note = "Dotted: the first value." if gold else "Dotted: the first value. Gold was not measured."
    return Figure(stage, note, svg)


def _metric_chart(stage: str, rows: list[Row], keys: tuple[str, ...]) -> Figure:
    with chart(170) as (figure, (ax,)):
        for key, colour, line in zip(keys, (FIRST, SECOND), ("-", "--")):
            _draw(ax, points(rows, key), colour, line, metric(key).label)
        unit = metric(keys[0]).unit
        name_y(ax, unit or metric(keys[0]).label)
        ax.set_xlabel("step")
        if len(keys) == 2:
            ax.legend(loc="best", fontsize=9.5, handlelength=2.2, labelcolor=MUTED)
        names = " and ".join(metric(key).label for key in keys)
        spoken = " ".join(_spoken(metric(key).label.capitalize(), points(rows, key)) for key in keys)
        svg = inline(figure, f"curve/{stage}/{keys[0]}", f"{stage}: {names} by step", spoken)
    return Figure(names, "", svg)


def _draw(ax: Axes, curve: Points, colour: str, line: str, label: str = "") -> None:
    shown = thin(curve)
    marker = ("o" if line == "-" else "s") if len(shown) <= FEW else ""
    steps, values = [x for x, _ in shown], [y for _, y in shown]
    ax.plot(steps, values, color=colour, linestyle=line, marker=marker, markersize=3.5, label=label)


def _spoken(label: str, curve: Points) -> str:
    """First and last finite value in words."""
    real = [(x, y) for x, y in curve if not math.isnan(y)]
    (x0, y0), (x1, y1) = real[0], real[-1]
    return f"{label}: {show_number(y0)} at step {x0:g}, {show_number(y1)} at step {x1:g}."


def stage_table(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of stages: name, kind, steps, seconds and final metrics, all as stored."""
    rows = []
    for stage in stages:
        final = {str(k): finite(v) for k, v in (stage.get("final") or {}).items()}
        shown = [(metric(k).label, show_number(v)) for k, v in final.items() if v is not None]
        seconds, steps = finite(stage.get("seconds")), finite(stage.get("steps"))
        rows.append(
            {
                "name": str(stage.get("name", "?")),
                "kind": str(stage.get("kind", "–")),
                "steps": "–" if steps is None else f"{steps:,.0f}",
                "seconds": "–" if seconds is None else f"{seconds:,.1f}",
                "sort": (steps, seconds),
                "final": shown,
            }
        )
    return rows
