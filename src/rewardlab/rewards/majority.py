"""The group's most common answer as its own reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from rewardlab.core.draws import generator_for
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.groups import by_group
from rewardlab.rewards.rules import final_number

Answer = str | float | None


def whole_text(text: str) -> str | None:
    """The text without case and without the blanks around and between its words; None if nothing is left."""
    return " ".join(text.casefold().split()) or None


class MajorityVote:
    """1 if an answer gives the group's most common result, else 0; ties are broken at random.

    `extract` takes the result out of the text; an answer without one votes for nothing and scores 0. The draw
    of a tie depends on the seed, the prompt and the group's results, not on their order. A group in which
    fewer than two answers have a result abstains. `parts`: `agreement`, the winner's share of the votes.

    Rewards consensus, not truth: where the model is mostly wrong, it learns to be always wrong. `warning`
    says so; compare with the untrained model's majority accuracy, which it cannot exceed by much.
    """

    def __init__(self, name: str, extract: Callable[[str], Answer] = final_number, *, seed: int = 0) -> None:
        self.name, self.extract, self.seed = name, extract, seed
        self.warning = f"{name} rewards consensus, not truth; watch accuracy beside it."

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        found: list[Score] = [Score.abstain("")] * len(rollouts)
        for group in by_group(rollouts):
            answers = [self.extract(rollouts[i].text) for i in group]
            votes = Counter(a for a in answers if a is not None)
            if votes.total() < 2:
                reason = f"{self.name}: {votes.total()} of {len(group)} answers have a result; no majority"
                for i in group:
                    found[i] = Score.abstain(reason)
                continue
            winner = self._winner(votes, rollouts[group[0]])
            agreement = votes[winner] / votes.total()
            for i, answer in zip(group, answers, strict=True):
                value = float(answer == winner)
                found[i] = Score(value, parts={self.name: value, "agreement": agreement})
        return found

    def _winner(self, votes: Counter[str | float], rollout: Rollout) -> str | float:
        most = max(votes.values())
        tied = sorted((a for a, n in votes.items() if n == most), key=str)
        if len(tied) == 1:
            return tied[0]
        texts = [m.content for m in rollout.prompt.messages]
        rng = generator_for(self.seed, *texts, *sorted(f"{a}: {n}" for a, n in votes.items()))
        return tied[int(rng.integers(len(tied)))]


class MajoritySettings(RewardSettings):
    """The group's most common result as the reference; needs no labels, rewards wrong majorities too."""

    kind: Literal["majority_vote"] = "majority_vote"
    result: Literal["final_number", "text"] = "final_number"
    """What is voted on: the number that the answer ends on, or the whole text."""
    seed: int = 0
    """Breaks ties."""

    def build(self, name: str, resolver: Resolver) -> MajorityVote:
        """The reward."""
        return MajorityVote(
            name, final_number if self.result == "final_number" else whole_text, seed=self.seed
        )
