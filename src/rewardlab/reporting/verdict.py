"""The verdict in plain words, built from the stored comparisons and from nothing else.

A difference is called raised or lowered only if its interval excludes zero; otherwise the words are "no
clear change". The same sentence is built for gains, nulls and reversals, so none of them can hide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewardlab.reporting.glossary import metric, policy_label
from rewardlab.reporting.intervals import (
    Interval,
    Reading,
    finite,
    read_difference,
    read_interval,
    show_interval,
    show_p,
)
from rewardlab.reporting.result_tables import findings

Segment = tuple[str, str]
"""A kind (`""`, `raised`, `lowered`, `flat` or `number`) and its text."""
KINDS: dict[Reading, str] = {
    "raised": "raised",
    "lowered": "lowered",
    "no clear change": "flat",
    "no interval": "flat",
}


@dataclass(frozen=True)
class Sentence:
    """A sentence whose verbs and numbers are marked, so that a page can set them off."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The sentence without marks."""
        return "".join(text for _, text in self.segments)


@dataclass(frozen=True)
class Change:
    """One stored comparison and what it allows one to say."""

    interval: Interval
    reading: Reading
    p_holm: float | None

    def number(self) -> list[Segment]:
        """The signed difference with its interval, and the corrected p where it weakens the claim."""
        segments: list[Segment] = [("number", show_interval(self.interval, signed=True))]
        if self.reading in ("raised", "lowered") and self.p_holm is not None and self.p_holm > 0.05:
            segments.append(("", f" (after Holm’s correction p = {show_p(self.p_holm)})"))
        return segments


def verdict(summary: dict[str, Any]) -> list[Sentence]:
    """One sentence per compared policy, then what is known of the reward model, then the tables' findings.

    A run without comparisons says so and reports what it did measure.
    """
    changes: dict[tuple[str, str], dict[str, Change]] = {}
    for row in summary.get("comparisons") or []:
        interval = read_interval(row)
        if interval is not None:
            names = (str(row.get("policy", "?")), str(row.get("baseline", summary.get("baseline", "?"))))
            change = Change(interval, read_difference(interval), finite(row.get("p_holm")))
            changes.setdefault(names, {})[str(row.get("metric", "?"))] = change
    sentences = [_compared(p, b, found, summary) for (p, b), found in changes.items()]
    if not sentences:
        sentences = _uncompared(summary)
    reward_model = _reward_model(summary.get("reward_model") or {})
    tables = [Sentence((("", text),)) for text in findings(summary)]
    return sentences + reward_model + tables or [
        Sentence((("", "This run stored no measurement to judge."),))
    ]


def _compared(policy: str, baseline: str, found: dict[str, Change], summary: dict[str, Any]) -> Sentence:
    segments: list[Segment] = []
    against = policy_label(baseline)
    first = next((m for m in ("proxy", "gold", *found) if m in found), "")
    segments += _claim(policy_label(policy), metric(first).label, against, found[first])
    if first == "proxy" and "gold" in found:
        segments += [("", "; "), *_gold(found["proxy"].reading, found["gold"])]
    elif first == "proxy":
        segments += [("", "; gold was not measured")]
    segments.append(("", "."))
    if "length" in found and first != "length":
        segments += [("", " "), *_claim("It", "length", "", found["length"]), ("", " tokens.")]
    wins = read_interval(((summary.get("policies") or {}).get(policy) or {}).get(f"win_rate_vs_{baseline}"))
    if wins is not None:
        judge = f", judged by {summary['judge']}" if summary.get("judge") else ""
        segments += [
            ("", f" Win rate against {against}{judge}: "),
            ("number", show_interval(wins)),
            ("", "."),
        ]
    return Sentence(tuple(segments))


def _claim(who: str, what: str, against: str, change: Change) -> list[Segment]:
    """`DPO raised the proxy reward over SFT by +0.41 [0.33, 0.49]` and its three siblings."""
    kind = KINDS[change.reading]
    the = what if what == "length" else f"the {what}"
    if change.reading in ("raised", "lowered"):
        side = f" {'over' if kind == 'raised' else 'against'} {against}" if against else ""
        return [("", f"{who} "), (kind, change.reading), ("", f" {the}{side} by "), *change.number()]
    side = f" against {against}" if against else ""
    if change.reading == "no interval":
        return [("", f"{who} has "), (kind, "no interval"), ("", f" for {the}{side}: "), *change.number()]
    return [("", f"{who} made "), (kind, "no clear change"), ("", f" in {the}{side}: "), *change.number()]


def _gold(proxy: Reading, gold: Change) -> list[Segment]:
    """How gold moved, told relative to the proxy."""
    kind, moved = KINDS[gold.reading], ("raised", "lowered")
    if gold.reading == "no interval":
        return [("", "gold has "), (kind, "no interval"), ("", ": "), *gold.number()]
    if gold.reading == "no clear change":
        start = "gold did not follow: " if proxy in moved else "gold shows "
        return [("", start), (kind, "no clear change"), ("", ", "), *gold.number()]
    if proxy in moved and proxy != gold.reading:
        return [("", "gold went the other way and was "), (kind, gold.reading), ("", " by "), *gold.number()]
    too = " too" if proxy == gold.reading else ""
    return [("", "gold was "), (kind, gold.reading), ("", f"{too} by "), *gold.number()]


def _uncompared(summary: dict[str, Any]) -> list[Sentence]:
    sentences = []
    for policy, values in (summary.get("policies") or {}).items():
        segments: list[Segment] = []
        for name in ("gold", "proxy"):
            interval = read_interval((values or {}).get(name))
            if interval is not None:
                segments += [("", "; " if segments else ""), ("", f"{metric(name).label} ")]
                segments.append(("number", show_interval(interval)))
        if segments:
            sentences.append(
                Sentence((("", f"{policy_label(policy)} was measured alone: "), *segments, ("", ".")))
            )
    if not sentences and not summary.get("reward_model"):
        for stage in summary.get("stages") or []:
            loss = finite((stage.get("final") or {}).get("loss"))
            if loss is not None:
                number = show_interval(Interval(loss))
                sentences.append(
                    Sentence(
                        (("", f"{stage.get('name', '?')} ended with loss "), ("number", number), ("", "."))
                    )
                )
    return sentences


def _reward_model(card: dict[str, Any]) -> list[Sentence]:
    sentences = []
    accuracy = read_interval(card.get("accuracy"))
    if accuracy is not None:
        segments: list[Segment] = [("", "The reward model orders held-out pairs as labelled with accuracy ")]
        segments.append(("number", show_interval(accuracy)))
        for name, words in (
            ("bayes_accuracy", "the Bayes ceiling is "),
            ("length_baseline_accuracy", "preferring the longer answer gives "),
        ):
            beside = read_interval(card.get(name))
            if beside is not None:
                segments += [("", f"; {words}"), ("number", show_interval(beside))]
        sentences.append(Sentence((*segments, ("", "."))))
    for check in card.get("verdicts") or []:
        if check.get("verdict") == "fail":
            sentences.append(Sentence((("lowered", "Failed check"), ("", f": {check.get('text', '')}"))))
    return sentences
