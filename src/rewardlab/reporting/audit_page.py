"""The audit's own page: traffic lights first, then every number with its interval, rewards side by side.

It computes nothing and loads nothing: all numbers come from the stored audit, and a content security policy
forbids every request. The same audit gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rewardlab.reporting.audit_charts import best_of_n_chart, margin_chart, reliability_chart
from rewardlab.reporting.intervals import Interval, finite, read_interval, show_bounds, show_number, show_p

HERE = Path(__file__).parent
WORDS = {"ok": "fine", "warn": "take care", "fail": "failed", "none": "not judged"}
SYMBOLS = {"ok": "✓", "warn": "!", "fail": "✗", "none": "·"}
ABOUT = {
    "discrimination": "Does it prefer the better answer?",
    "calibration": "Can a difference of scores be read as a probability?",
    "bias": "What do edits do that do not change the quality?",
    "invariance": "Does what must not matter stay without effect?",
    "exploitability": "What can a policy gain without getting better?",
}
GROUPS = {
    "placebo": "Placebo edits",
    "shown": "Shown, not judged",
    "observed": "Observed slopes, nothing edited",
    "constant": "Constant answers against real ones",
    "subset": "By subset",
}


@dataclass(frozen=True)
class Cell:
    """One measure of one reward, as drawn; positions are percent of the scale."""

    light: str
    estimate: str
    bounds: str
    details: str
    at: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """One measure of all rewards; None where a reward lacks it."""

    title: str
    unit: str
    heading: str
    """Title of the group that begins with this line, or empty."""
    reference: float | None
    cells: list[Cell | None]


@dataclass(frozen=True)
class Part:
    """One section of the page."""

    name: str
    about: str
    rule: str
    texts: list[tuple[str, str, str, list[str]]]
    """Per reward: its name, light, sentence and advice."""
    lines: list[Line]
    charts: list[tuple[str, list[Markup]]]
    """Title and, per reward, a drawing."""
    facts: list[tuple[str, str]]


def audit_page(page: Mapping[str, Any]) -> str:
    """The page as text, from `{"title", "facts", "rewards": {name: card}}`."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards: dict[str, Any] = dict(page["rewards"])
    names = list(dict.fromkeys(s for card in cards.values() for s in card["sections"]))
    css = "".join((HERE / f).read_text(encoding="utf-8") for f in ("report.css", "audit_page.css"))
    return environment.get_template("audit_page.html").render(
        css=Markup(css),
        title=page["title"],
        facts=[(k, str(v)) for k, v in page["facts"].items()],
        rewards=[(name, card["verdict"], card["counts"]) for name, card in cards.items()],
        lights=[(n, [_light(card, n) for card in cards.values()]) for n in names],
        parts=[_part(n, cards) for n in names],
        words=WORDS,
        symbols=SYMBOLS,
    )


def _light(card: Mapping[str, Any], section: str) -> str:
    return str(card["sections"].get(section, {}).get("light", "none"))


def _part(name: str, cards: Mapping[str, Any]) -> Part:
    found = {r: card["sections"][name] for r, card in cards.items() if name in card["sections"]}
    texts = [(r, s["light"], s["sentence"], s["advice"]) for r, s in found.items()]
    rule = next(iter(found.values()))["rule"]
    return Part(
        name, ABOUT.get(name, ""), rule, texts, _lines(name, cards), _charts(name, cards), _facts(name, found)
    )


def _lines(section: str, cards: Mapping[str, Any]) -> list[Line]:
    tables = [
        {m["name"]: m for m in card["sections"].get(section, {}).get("measures", [])}
        for card in cards.values()
    ]
    first = {name: m for table in reversed(tables) for name, m in table.items()}
    order = list(dict.fromkeys(name for table in tables for name in table))
    order.sort(key=lambda n: list(GROUPS).index(first[n]["group"]) if first[n]["group"] in GROUPS else -1)
    lines: list[Line] = []
    last = ""
    for name in order:
        about = first[name]
        unit = about["unit"]
        alike = [m for t in tables for m in t.values() if m["unit"] == unit and m["group"] == about["group"]]
        low, high = _scale(alike, unit)

        def place(value: float | None, low: float = low, high: float = high) -> float | None:
            return (
                None if value is None else round(min(100.0, max(0.0, 100 * (value - low) / (high - low))), 2)
            )

        group = GROUPS.get(about["group"], "")
        heading = group if group != last else ""
        last = group
        cells = [_cell(t.get(name), place) for t in tables]
        if any(c is not None for c in cells):
            reference = finite(about["reference"])
            lines.append(Line(about["title"], unit, heading, place(reference), cells))
    return lines


def _scale(measures: list[Mapping[str, Any]], unit: str) -> tuple[float, float]:
    """Ends that hold every limit; shares lie on 0 to 1."""
    if unit == "share":
        return 0.0, 1.0
    values = [v for m in measures for k in ("estimate", "low", "high") if (v := finite(m[k])) is not None]
    values += [r for m in measures if (r := finite(m["reference"])) is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _cell(measure: Mapping[str, Any] | None, place: Any) -> Cell | None:
    interval = read_interval(measure) if measure is not None else None
    if measure is None or interval is None:
        return None
    bare = interval.low is None or interval.low == interval.high
    digits = None if bare else min(3, max(2, _digits(interval)))
    details = [measure["note"]] if measure["note"] else []
    flips = read_interval(measure["flip_rate"]) if measure["flip_rate"] else None
    if flips is not None:
        details.append(f"turns {100 * flips.estimate:.0f}% of right preferences")
    if measure["p"] is not None:
        details.append(f"p {show_p(measure['p'])}")
    if interval.n:
        details.append(f"n {interval.n:,}")
    signed = measure["reference"] == 0 and measure["unit"] in ("SD", "correlation")
    return Cell(
        str(measure["light"]),
        show_number(
            interval.estimate, 2 if digits is None and abs(interval.estimate) < 100 else digits, signed=signed
        ),
        "" if bare else show_bounds(interval, digits),
        ", ".join(details),
        place(interval.estimate),
        place(interval.low),
        place(interval.high),
    )


def _digits(interval: Interval) -> int:
    width = (interval.high or 0.0) - (interval.low or 0.0)
    return 3 if width < 0.02 else 2


def _charts(section: str, cards: Mapping[str, Any]) -> list[tuple[str, list[Markup]]]:
    """Charts of one kind share a row, one per reward."""
    kinds: dict[str, list[Markup]] = {}
    for number, (name, card) in enumerate(cards.items()):
        if section == "calibration" and card["curves"]["reliability"]:
            drawn = reliability_chart(card["curves"]["reliability"], name, number)
            kinds.setdefault("Reliability: observed against claimed, dotted where they agree", []).append(
                drawn
            )
        if section == "discrimination":
            drawn = margin_chart(card["sections"][section]["curves"]["margin_deciles"], name, number)
            kinds.setdefault("Accuracy by size of the score difference, dotted: chance", []).append(drawn)
        curve = card["sections"].get(section, {}).get("curves", {}).get("best_of_n") or []
        if section == "exploitability" and len(curve) > 1:
            drawn = best_of_n_chart(curve, name, number)
            kinds.setdefault(
                "Best of n: gain over one random answer, each as a share of its largest gain", []
            ).append(drawn)
    return list(kinds.items())


def _facts(section: str, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The strongest bad answer of each reward, in full."""
    out = []
    for name, s in found.items():
        attack = s["facts"].get("highest_bad_answer") if section == "exploitability" else None
        if attack and attack["steps"]:
            over = finite(attack["margin_over_better_sd"]) or 0.0
            steps = ", ".join(attack["steps"])
            title = f"{name}: the strongest bad answer found, {over:+.1f} SD over the better one ({steps})"
            out.append((title, str(attack["answer"])[:1200]))
    return out
