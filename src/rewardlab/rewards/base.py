"""What a reward is, and how settings become one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from rewardlab.core.settings import Settings
from rewardlab.core.types import Prompt, Rollout, Score
from rewardlab.judges.base import Judge
from rewardlab.models.engine import Engine


class Reward(Protocol):
    """Scores rollouts, batched, in order; one `Score` for each.

    An abstention or a failure is a `Score` with that status, never a 0 and never an exception for one
    bad rollout among good ones.
    """

    name: str

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        ...


Oracle = Callable[[Prompt], list[str]]
"""The best known answers to a prompt; none for a prompt that it does not know."""


class Resolver(Protocol):
    """Where the settings of a reward find what they name: other rewards, judges, policies, the oracle."""

    def reward(self, name: str) -> Reward:
        """A reward by name: of the recipe, built in, of a stage, or a model folder."""
        ...

    def judge(self, name: str) -> Judge:
        """A judge of the recipe by name."""
        ...

    def policy(self, name: str) -> Engine:
        """A causal LM: `base`, a stage's output or a model folder."""
        ...

    def oracle(self) -> Oracle:
        """The best answers of the recipe's world."""
        ...


class RewardSettings(Settings):
    """Settings of one kind of reward. A subclass adds `kind: Literal[...]` and its knobs."""

    def references(self) -> list[str]:
        """Names of the rewards and policies that it is made of."""
        return []

    def judges(self) -> list[str]:
        """Names of the judges that it asks."""
        return []

    @abstractmethod
    def build(self, name: str, resolver: Resolver) -> Reward:
        """The reward, under the name that its scores are logged with."""
