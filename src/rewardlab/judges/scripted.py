"""A judge that is a function of two texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout
from rewardlab.execution.functions import load_function
from rewardlab.judges.base import Comparison, Finder, JudgeSettings
from rewardlab.judges.scores import logistic


class ScriptedJudge:
    """Asks `prefer(first text, second text)`: how likely the first is better, in [0, 1]; None abstains.

    A function that raises, or that answers outside [0, 1], is an error of that pair alone.
    """

    def __init__(self, name: str, prefer: Callable[[str, str], float | None]) -> None:
        self.name, self.prefer = name, prefer

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair."""
        return [self._compare(a.text, b.text) for a, b in pairs]

    def _compare(self, first: str, second: str) -> Comparison:
        try:
            found = self.prefer(first, second)
            if found is None:
                return Comparison.abstain(f"{self.name}: no verdict")
            return Comparison(float(found))
        except Exception as error:  # the function is the user's, and one bad pair must not spoil the others
            return Comparison.error(f"{self.name}: {type(error).__name__}: {error}")


class LongerSettings(JudgeSettings):
    """Prefers the longer answer, whatever it says: sigmoid((words of first - words of second) / words)."""

    kind: Literal["longer"] = "longer"
    words: float = Field(default=10.0, gt=0)
    """A lead of so many words is preferred with probability 0.73."""

    def build(self, name: str, finder: Finder) -> ScriptedJudge:
        """The judge."""
        scale = self.words
        return ScriptedJudge(name, lambda a, b: logistic((len(a.split()) - len(b.split())) / scale))


class FunctionJudgeSettings(JudgeSettings):
    """A function `f(first text, second text)`: how likely the first is better, in [0, 1]; None abstains."""

    kind: Literal["function"] = "function"
    function: str
    """`file.py:function`, or `package.module:function`."""

    def build(self, name: str, finder: Finder) -> ScriptedJudge:
        """The judge."""
        return ScriptedJudge(name, load_function(self.function))
