"""A Python function of the user's as a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rewardlab.core.types import Rollout, Score
from rewardlab.execution.functions import load_function
from rewardlab.execution.worker import WorkerPool
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.composable import Composable


class FunctionSettings(RewardSettings):
    """A function `f(prompt, answer, meta)` that gives a number, true or false, None, or a dict of parts.

    `prompt` is the text of the last message before the answer, `meta` the row's other columns. Of a dict the
    entry `score` is the value, or else the first. None is an abstention; an exception is an error.
    """

    kind: Literal["function"] = "function"
    function: str
    """`file.py:function`, or `package.module:function`."""
    values: Literal["binary", "continuous"] = "continuous"
    """`binary` refuses anything but 0 and 1."""
    lowest: float | None = None
    """A value below it is an error."""
    highest: float | None = None
    """A value above it is an error."""
    seconds: float | None = Field(default=None, gt=0)
    """Run the function in a child process that is killed after so long; then `meta` must be JSON."""

    def build(self, name: str, resolver: Resolver) -> FunctionReward:
        """The reward."""
        return FunctionReward(name, self)


class FunctionReward(Composable):
    """The user's function on each rollout; see `FunctionSettings`."""

    settings: FunctionSettings

    def __init__(self, name: str, settings: FunctionSettings) -> None:
        self.name, self.settings = name, settings
        self.function = load_function(settings.function)  # in any case: a wrong name shows now
        place = settings.function.rpartition(":")[0]
        target = str(Path(place).resolve()) if place.endswith(".py") else place
        self.pool = (
            WorkerPool(f"{target}:{settings.function.rpartition(':')[2]}", spread=True)
            if settings.seconds
            else None
        )

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [self._score(r) for r in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        given = (rollout.prompt.messages[-1].content, rollout.text, dict(rollout.prompt.meta))
        if self.pool is not None and self.settings.seconds:
            reply = self.pool.call(given, self.settings.seconds)
            if reply.failure:
                return Score.error(f"{self.settings.function}: {reply.reason}")
            return self._checked(reply.value)
        try:
            said = self.function(*given)
        except Exception as error:
            return Score.error(f"{self.settings.function}: {type(error).__name__}: {error}")
        return self._checked(said)

    def _checked(self, said: Any) -> Score:
        s = self.settings
        score = score_of(said, s.function)
        if score.value is None:
            return score
        if s.values == "binary" and score.value not in (0.0, 1.0):
            return Score.error(f"{s.function} is binary and gave {score.value}")
        low = -math.inf if s.lowest is None else s.lowest
        high = math.inf if s.highest is None else s.highest
        if not low <= score.value <= high:
            return Score.error(f"{s.function} gave {score.value}, outside of its range")
        return score


def score_of(said: Any, source: str) -> Score:
    """What a user's function gave, as a score: a number, a Score, None (abstains), or a dict of parts."""
    if isinstance(said, Score):
        return said
    if said is None:
        return Score.abstain(f"{source} gave None")
    parts: dict[str, float] = {}
    if isinstance(said, Mapping):
        parts = {str(k): float(v) for k, v in said.items() if _is_number(v)}
        said = said.get("score", next(iter(said.values()), None))
    if not _is_number(said):
        return Score.error(f"{source} gave {said!r}, not a finite number")
    return Score(float(said), parts={k: v for k, v in parts.items() if k != "score"})


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
