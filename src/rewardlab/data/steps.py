"""Answers in steps: rows with a label per step, and text cut into steps and put together again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from rewardlab.core.types import Steps
from rewardlab.data.messages import BadRowError, checked_text, prompt_messages
from rewardlab.data.rows import Fields, identity

StepKind = Literal["line", "paragraph", "sentence"]
"""What a step is; see `split_steps`."""

JOINERS: dict[StepKind, str] = {"line": "\n", "paragraph": "\n\n", "sentence": " "}
"""What stands between two steps."""

_CUTS = {
    "line": re.compile(r"\n+"),
    "paragraph": re.compile(r"\n\s*\n"),
    "sentence": re.compile(r"(?<=[.!?])\s+"),
}


def split_steps(text: str, kind: StepKind) -> tuple[str, ...]:
    """The steps of a text, without the blanks around them: its lines, its paragraphs, or its sentences.

    A sentence ends where white space follows `.`, `!` or `?`. Text without a step gives none.
    """
    return tuple(piece.strip() for piece in _CUTS[kind].split(text) if piece.strip())


def to_steps(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Steps:
    """`prompt` (or `messages`), `steps` (a list of texts), and `labels` or `first_error_step`.

    `labels`: one per step, true/false or a probability in [0, 1]; null leaves the step unlabelled.
    `first_error_step`: 0-based; the steps before it are right, it is wrong, and those after it are left
    unlabelled, as annotators stop there (Lightman et al. 2023, arXiv 2305.20050). null: all are right.
    Blank steps are left out together with their labels, if that leaves a labelled one.
    """
    fields = Fields(row, columns)
    name = "messages" if fields.has("messages") and not fields.has("prompt") else "prompt"
    prompt = prompt_messages(fields.need(name), name)
    if prompt[-1].role == "assistant":
        raise BadRowError(f"{name} ends with an assistant message")
    steps = fields.need("steps")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise BadRowError("steps is not a list of texts")
    labels = _labels(fields, len(steps))
    kept = [(checked_text(s, "steps").strip(), y) for s, y in zip(steps, labels, strict=True) if s.strip()]
    if all(y is None for _, y in kept):
        raise BadRowError("no step has a label")
    texts, known = tuple(s for s, _ in kept), tuple(y for _, y in kept)
    return Steps(prompt, texts, known, identity(prompt, texts, known), fields.meta(), place)


def _labels(fields: Fields, steps: int) -> list[float | None]:
    if fields.has("labels"):
        labels = fields.need("labels")
        if not isinstance(labels, list) or len(labels) != steps:
            raise BadRowError(f"labels is not a list of {steps} labels, one per step")
        return [_label(y) for y in labels]
    if not fields.has("first_error_step"):
        fields.need("labels")
    first = fields.get("first_error_step")
    if first is None:
        return [1.0] * steps
    if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < steps:
        raise BadRowError(f"first_error_step is not the 0-based number of one of {steps} steps: {first!r}")
    return [1.0] * first + [0.0] + [None] * (steps - first - 1)


def _label(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise BadRowError(f"a label is not true, false or in [0, 1]: {value!r}")
    return float(value)
