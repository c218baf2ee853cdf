"""Answers that point: sets of clicked items, and boxes on an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.extraction import FORMS, extract
from rewardlab.rewards.rules.rule import RowError, Rule, reference

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 with x0 <= x1 and y0 <= y1."""


def f1(hits: float, said: int, wanted: int) -> float:
    """2 hits / (said + wanted); 1 where both are empty."""
    return 2 * hits / (said + wanted) if said + wanted else 1.0


def iou(a: Box, b: Box) -> float:
    """Area of the intersection over area of the union, 0 where the union is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - inside
    return inside / union if union > 0 else 0.0


def box_matches(said: Sequence[Box], wanted: Sequence[Box], threshold: float) -> int:
    """Size of a greedy one-to-one matching, best overlaps first, of boxes with IoU >= threshold."""
    pairs = sorted(
        ((iou(a, b), i, j) for i, a in enumerate(said) for j, b in enumerate(wanted)), reverse=True
    )
    left: set[int] = set()
    right: set[int] = set()
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap >= threshold and i not in left and j not in right:
            left.add(i)
            right.add(j)
    return len(left)


def said_list(text: str) -> list[Any] | None:
    """The list that an answer gives: its marked answer, or else its last `[...]` that is JSON, or None.

    A marked answer without brackets is read as items between commas.
    """
    marked = extract(text, FORMS)
    if marked is not None and "[" not in marked:
        return [item.strip() for item in marked.split(",") if item.strip()]
    text, found = (text if marked is None else marked), None
    at = text.find("[")
    while at >= 0:
        try:
            found, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            end = at + 1
        at = text.find("[", end)
    return found


class SetF1Settings(RewardSettings):
    """F1 of the set of items that the answer names against the reference set (clicked elements, labels)."""

    kind: Literal["set_f1"] = "set_f1"
    field: str = "answer"
    """Key of the prompt's meta with the list of right items."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; parts precision, recall and `answered`."""

        def judge(rollout: Rollout) -> dict[str, float]:
            wanted = reference(rollout, self.field)
            if not isinstance(wanted, list | tuple):
                raise RowError(f"{self.field!r} is no list")
            items = said_list(rollout.text)
            said, right = {_key(x) for x in items or ()}, {_key(x) for x in wanted}
            hits = len(said & right)
            return {
                "f1": 0.0 if items is None else f1(hits, len(said), len(right)),
                "precision": hits / len(said) if said else 0.0,
                "recall": hits / len(right) if right else 0.0,
                "answered": float(items is not None),
            }

        return Rule(name, judge, self)


def _key(item: Any) -> str:
    return item.strip().lower() if isinstance(item, str) else json.dumps(item, sort_keys=True)


class BoxSettings(RewardSettings):
    """Overlap of the boxes `[x0, y0, x1, y1]` that the answer gives with the reference boxes."""

    kind: Literal["box"] = "box"
    field: str = "boxes"
    """Key of the prompt's meta with one box or a list of boxes."""
    score: Literal["iou", "f1"] = "iou"
    """`iou`: the mean, over reference boxes, of the best overlap, lowered by boxes too many; `f1`: of boxes
    that overlap by `threshold`."""
    threshold: float = Field(default=0.5, gt=0, le=1)

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; both scores are parts."""

        def judge(rollout: Rollout) -> dict[str, float]:
            wanted = _boxes(reference(rollout, self.field))
            if not wanted:
                raise RowError(f"{self.field!r} is no box [x0, y0, x1, y1] nor a list of them")
            said = _boxes(said_list(rollout.text)) or []
            best = sum(max((iou(w, b) for b in said), default=0.0) for w in wanted)
            found = {
                "iou": best / max(len(wanted), len(said)),
                "f1": f1(box_matches(said, wanted, self.threshold), len(said), len(wanted)),
            }
            return {self.score: found[self.score], **found, "answered": float(bool(said))}

        return Rule(name, judge, self)


def _boxes(data: Any) -> list[Box] | None:
    """Boxes from one or a list of them; None where anything in it is no box."""
    if not isinstance(data, list | tuple):
        return None
    rows = [data] if len(data) == 4 and not any(isinstance(x, list | tuple) for x in data) else data
    boxes = []
    for row in rows:
        numbers = isinstance(row, list | tuple) and all(
            isinstance(x, int | float) and not isinstance(x, bool) for x in row
        )
        if not numbers or len(row) != 4:
            return None
        x0, y0, x1, y1 = map(float, row)
        if x0 > x1 or y0 > y1:
            return None
        boxes.append((x0, y0, x1, y1))
    return boxes
