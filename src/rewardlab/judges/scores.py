"""A judge made of a reward: the higher score is the likelier winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.judges.base import Comparison, Finder, JudgeSettings, Scorer


def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


class ScoreJudge:
    """first = sigmoid((score(a) - score(b)) / temperature), the Bradley-Terry model of the scores.

    Temperature 0 is the sign: 1, 0, and 0.5 for a tie. Each answer is scored once however many pairs it is
    in. A pair with a failed score is an error; otherwise one with an abstention is an abstention.
    """

    def __init__(self, reward: Scorer, *, temperature: float = 1.0, name: str = "") -> None:
        if not temperature >= 0:
            raise UserError(
                f"the judge's temperature {temperature} is negative.", "0 takes the higher score, 1 is usual."
            )
        self.name, self.reward, self.temperature = name or reward.name, reward, temperature

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair."""
        place: dict[int, int] = {}
        answers: list[Rollout] = []
        for rollout in (r for pair in pairs for r in pair):
            if id(rollout) not in place:
                place[id(rollout)] = len(answers)
                answers.append(rollout)
        scores = self.reward.score(answers) if answers else []
        return [self._compare(scores[place[id(a)]], scores[place[id(b)]]) for a, b in pairs]

    def _compare(self, first: Score, second: Score) -> Comparison:
        if first.value is None or second.value is None:
            bad = next((s for s in (first, second) if s.status == "error"), None)
            if bad is not None:
                return Comparison.error(bad.reason)
            return Comparison.abstain((first if first.value is None else second).reason)
        gap = first.value - second.value
        if self.temperature == 0:
            return Comparison(0.5 + 0.5 * ((gap > 0) - (gap < 0)))
        return Comparison(logistic(gap / self.temperature))


class OfRewardSettings(JudgeSettings):
    """The answer with the higher score of a reward is the likelier winner."""

    kind: Literal["of_reward"] = "of_reward"
    reward: str
    """The reward whose scores decide."""
    temperature: float = 1.0
    """The difference of scores is divided by it; 0 lets the higher score win outright."""

    def references(self) -> list[str]:
        """The reward."""
        return [self.reward]

    def build(self, name: str, finder: Finder) -> ScoreJudge:
        """The judge."""
        return ScoreJudge(finder.reward(self.reward), temperature=self.temperature, name=name)
