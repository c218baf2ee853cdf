"""What a judge is, and how settings become one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rewardlab.core.settings import Settings
from rewardlab.core.types import Rollout, Score


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a judge says of two answers: how likely the first is the better one, or that it has no verdict."""

    first: float | None
    """In [0, 1]: probability, or share of votes, that the first answer is better; 0.5 is a tie."""
    status: Literal["ok", "abstain", "error"] = "ok"
    reason: str = ""
    """Why it abstained or failed, or what it based its verdict on."""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.first is not None):
            raise ValueError(f"a comparison with status {self.status!r} cannot have the value {self.first!r}")
        if self.first is not None and not (math.isfinite(self.first) and 0 <= self.first <= 1):
            raise ValueError(f"a preference lies in [0, 1], got {self.first!r}")

    @staticmethod
    def abstain(reason: str) -> Comparison:
        """The judge has no opinion on this pair."""
        return Comparison(None, "abstain", reason)

    @staticmethod
    def error(reason: str) -> Comparison:
        """The judge failed on this pair; it is left out and counted."""
        return Comparison(None, "error", reason)


class Judge(Protocol):
    """Compares answers, batched, in the order shown; the order itself may sway it."""

    name: str

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair of answers to the same prompt."""
        ...


class Scorer(Protocol):
    """What a judge needs of a reward."""

    name: str

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        ...


class Finder(Protocol):
    """Where the settings of a judge find what they name."""

    def reward(self, name: str) -> Scorer:
        """A reward by name."""
        ...

    def judge(self, name: str) -> Judge:
        """Another judge by name."""
        ...


class JudgeSettings(Settings):
    """Settings of one kind of judge. A subclass adds `kind: Literal[...]` and its knobs."""

    def references(self) -> list[str]:
        """Names of the rewards that it is made of."""
        return []

    def judges(self) -> list[str]:
        """Names of the judges that it is made of."""
        return []

    @abstractmethod
    def build(self, name: str, finder: Finder) -> Judge:
        """The judge, under this name."""
