"""What a reward is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rewardlab.core.types import Rollout, Score


class Reward(Protocol):
    """Scores rollouts, batched, in order; one `Score` for each.

    An abstention or a failure is a `Score` with that status, never a 0 and never an exception for one
    bad rollout among good ones.
    """

    name: str

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        ...
