"""A judge that is a function of two texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewardlab.core.types import Rollout
from rewardlab.judges.base import Comparison


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
