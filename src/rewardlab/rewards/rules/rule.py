"""A reward from a function of one rollout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import RewardSettings
from rewardlab.rewards.composable import Composable


class RowError(Exception):
    """This rollout cannot be scored: its prompt lacks what the rule needs, or the rule's tool failed."""


Judgement = Score | float | dict[str, float]
"""A score; its value alone; or parts of which the first is the value."""


class Rule(Composable):
    """Scores each rollout on its own; a `RowError` is an error of that rollout, with its place."""

    def __init__(
        self, name: str, judge: Callable[[Rollout], Judgement], settings: RewardSettings | None = None
    ) -> None:
        self.name, self.judge, self.settings = name, judge, settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [self._score(r) for r in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        try:
            return to_score(self.judge(rollout))
        except RowError as error:
            return Score.error(f"{rollout.prompt.place}: {error}".lstrip(": "))


def to_score(said: Judgement) -> Score:
    """A judgement as a score; a value or part that is not finite is an error."""
    if isinstance(said, Score):
        return said
    parts = said if isinstance(said, dict) else {}
    value = next(iter(parts.values())) if isinstance(said, dict) else said
    if wrong := [x for x in (value, *parts.values()) if not math.isfinite(x)]:
        return Score.error(f"the rule gave {wrong[0]}")
    return Score(float(value), parts={k: float(v) for k, v in parts.items()})


def reference(rollout: Rollout, field: str) -> Any:
    """The value of the prompt's meta that the answer is compared with; a missing or null one is an error."""
    found = rollout.prompt.meta.get(field)
    if found is None:
        raise RowError(f"no reference in {field!r}")
    return found
