"""Prompts with every policy's answer, ready to browse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rewardlab.reporting.glossary import policy_label
from rewardlab.reporting.intervals import finite, show_number

MOST_BYTES = 400_000
"""Samples are shown until their text reaches this size; the page says how many were left out."""
STOPS = {"stop": "ended by itself", "length": "cut at the token limit"}


@dataclass(frozen=True)
class ShownScore:
    """One reward of one answer."""

    name: str
    value: str
    ok: bool
    parts: list[tuple[str, str]]


@dataclass(frozen=True)
class ShownAnswer:
    """One policy's answer."""

    policy: str
    text: str
    stop: str
    cut: bool
    scores: list[ShownScore]


@dataclass(frozen=True)
class ShownSample:
    """One prompt."""

    turns: list[tuple[str, str]]
    """Role and text; a plain prompt has the role "prompt"."""
    answers: list[ShownAnswer]


def shown_samples(rows: list[dict[str, Any]]) -> tuple[list[ShownSample], int]:
    """The samples that fit, in the order stored, and how many there are in all."""
    shown: list[ShownSample] = []
    used = 0
    for row in rows:
        used += len(json.dumps(row, ensure_ascii=False).encode())
        if shown and used > MOST_BYTES:
            break
        answers = [_answer(a) for a in row.get("answers") or []]
        shown.append(ShownSample(_turns(row.get("prompt")), answers))
    return shown, len(rows)


def _turns(prompt: object) -> list[tuple[str, str]]:
    if isinstance(prompt, list):
        return [(str(m.get("role", "?")), str(m.get("content", ""))) for m in prompt if isinstance(m, dict)]
    return [("prompt", str(prompt or ""))]


def _answer(row: dict[str, Any]) -> ShownAnswer:
    stop = str(row.get("stop", ""))
    scores = [_score(str(name), score) for name, score in (row.get("rewards") or {}).items()]
    policy = policy_label(str(row.get("policy", "?")))
    return ShownAnswer(policy, str(row.get("text", "")), STOPS.get(stop, stop), stop == "length", scores)


def _score(name: str, score: object) -> ShownScore:
    """An abstention or an error is said in words; it is never shown as a zero."""
    stored: dict[str, Any] = score if isinstance(score, dict) else {"value": score}
    status, value = str(stored.get("status", "ok")), finite(stored.get("value"))
    parts = [(str(k), finite(v)) for k, v in (stored.get("parts") or {}).items()]
    shown = [(k, show_number(v, 3)) for k, v in parts]
    if status != "ok" or value is None:
        words = {"abstain": "abstained", "error": "failed"}.get(status, "no value")
        reason = stored.get("reason")
        return ShownScore(name, f"{words}: {reason}" if reason else words, False, shown)
    return ShownScore(name, show_number(value, 3), True, shown)
