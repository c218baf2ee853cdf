"""Rewards that are programs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rewardlab.core.types import Rollout, Score

_NUMBER = re.compile(r"\$?-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(r"(?:####|answer is:?|answer:)\s*(" + _NUMBER.pattern + ")", re.IGNORECASE)


def final_number(text: str) -> float | None:
    """The number an answer ends on: the last one marked by `####` or "answer is", else None.

    A number that merely occurs in the working is not an answer.
    """
    marked = _MARKED.findall(text)
    return None if not marked else _to_float(marked[-1])


def _to_float(number: str) -> float | None:
    try:
        value = float(number.replace(",", "").replace("$", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class NumericAnswer:
    """1 if the answer's final number equals the prompt's reference `answer`, else 0.

    Parts: `correct` and `answered` (a final number was found). A prompt without a numeric reference is
    an error, not a 0. Equality is within 1e-6 relative.
    """

    name = "numeric_answer"

    def __init__(self, field: str = "answer") -> None:
        self.field = field

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [self._score(r) for r in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        reference = _to_float(str(rollout.prompt.meta.get(self.field, "")))
        if reference is None:
            return Score.error(f"{rollout.prompt.place}: no numeric reference in {self.field!r}")
        found = final_number(rollout.text)
        correct = found is not None and math.isclose(found, reference, rel_tol=1e-6)
        return Score(float(correct), parts={"correct": float(correct), "answered": float(found is not None)})


class TextLength:
    """Number of whitespace-separated words, a baseline that any learned reward must beat."""

    name = "length"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [Score(float(len(r.text.split()))) for r in rollouts]
