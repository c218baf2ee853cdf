"""A trained reward model as a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewardlab.core.batch import Batch
from rewardlab.core.types import Example, Message, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_example
from rewardlab.models.engine import Engine


class LearnedReward:
    """Score of a sequence-classification model with one label, at the last real token, minus `offset`.

    With `reads_ids` (the policy has the same tokenizer and template) a sampled rollout's own ids are
    scored, so an answer cut by the token limit is seen as cut; otherwise, and for answers that were not
    sampled, the text is rendered with the reward model's template. Never depends on batch or padding.
    """

    def __init__(self, name: str, engine: Engine, *, offset: float = 0.0, reads_ids: bool = False) -> None:
        self.name = name
        self.engine, self.offset, self.reads_ids = engine, offset, reads_ids

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a non-finite output is an error."""
        if not rollouts:
            return []
        values = self.engine.frozen_scores(Batch.pack([self._tokens(r) for r in rollouts])).tolist()
        return [self._score(v - self.offset) for v in values]

    def _score(self, value: float) -> Score:
        if not math.isfinite(value):
            return Score.error(f"{self.name}: the reward model gave {value}")
        return Score(value, parts={self.name: value})

    def _tokens(self, rollout: Rollout) -> Tokens:
        if self.reads_ids and rollout.sequence.actions:
            return rollout.sequence
        example = Example((*rollout.prompt.messages, Message("assistant", rollout.text)))
        return render_example(self.engine.model.tokenizer, example).sequence
