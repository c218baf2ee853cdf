"""A trained reward model as a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_example
from rewardlab.models.engine import Engine


class LearnedReward:
    """Score of a sequence-classification model with one label, at the last real token, minus `offset`.

    With `reads_ids` (the policy has the same tokenizer and template) a sampled rollout's own ids are
    scored, so an answer cut by the token limit is seen as cut; otherwise, and for answers that were not
    sampled, the text is rendered with the reward model's template, cut to `max_tokens` as in its training.
    `whole` keeps what the template writes behind the answer, as public reward models expect. A text that
    cannot be rendered is an error of that rollout alone. Never depends on batch or padding.
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
    ) -> None:
        self.name = name
        self.engine, self.offset, self.max_tokens = engine, offset, max_tokens
        self.reads_ids, self.whole = reads_ids, whole

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a non-finite output is an error."""
        rendered = [self._tokens(r) for r in rollouts]
        rows = [t for t in rendered if isinstance(t, Tokens)]
        values = iter(self.engine.frozen_scores(Batch.pack(rows)).tolist() if rows else ())
        return [self._score(next(values)) if isinstance(t, Tokens) else Score.error(t) for t in rendered]

    def _score(self, value: float) -> Score:
        if not math.isfinite(value):
            return Score.error(f"{self.name}: the reward model gave {value}")
        return Score(value - self.offset, parts={self.name: value - self.offset})

    def _tokens(self, rollout: Rollout) -> Tokens | str:
        """Ids to score, or why there are none."""
        if self.reads_ids and rollout.sequence.actions:
            return rollout.sequence
        answer = Message("assistant", rollout.text)
        example = Example((*rollout.prompt.messages, answer), place=rollout.prompt.place)
        tokenizer = self.engine.model.tokenizer
        try:
            return render_example(tokenizer, example, self.max_tokens, whole=self.whole).sequence
        except UserError as error:
            return error.problem
