"""A trained reward model as a reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rewardlab.core.batch import Batch
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.models.engine import Engine
from rewardlab.rewards.reading import Reader, score_readable


class LearnedReward:
    """Score of a sequence-classification model with one label, at the last real token, minus `offset`.

    `unit` turns that raw score into the unit of the labels first, where the training had labels with a unit.
    `reads_ids`, `max_tokens` (as in its training) and `whole` (as public reward models expect) are those of
    `Reader`. A text that cannot be rendered is an error of that rollout alone. Never depends on batch or
    padding.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        offset: float = 0.0,
        max_tokens: int | None = None,
        reads_ids: bool = False,
        whole: bool = False,
        unit: Callable[[float], float] = float,
    ) -> None:
        self.name = name
        self.engine, self.offset, self.unit = engine, offset, unit
        self._tokens = Reader(engine.model.tokenizer, max_tokens, reads_ids, whole)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a non-finite output is an error."""
        return score_readable(rollouts, self._tokens, self._scores)

    def _scores(self, rows: list[Tokens]) -> list[Score]:
        return [self._score(x) for x in self.engine.frozen_scores(Batch.pack(rows)).tolist()]

    def _score(self, value: float) -> Score:
        if not math.isfinite(value):
            return Score.error(f"{self.name}: the reward model gave {value}")
        value = self.unit(value) - self.offset
        return Score(value, parts={self.name: value})
