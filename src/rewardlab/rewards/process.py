"""A process reward model as a reward: one probability per step, put together to one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from rewardlab.core.batch import Batch, given
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score, Steps
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_steps
from rewardlab.data.steps import JOINERS, StepKind, split_steps
from rewardlab.models.engine import Engine

Aggregation = Literal["min", "mean", "product", "last"]


def aggregate(probabilities: Sequence[float], how: Aggregation) -> float:
    """One value in [0, 1] from the probabilities that each step is right; at least one is needed.

    min: as good as the worst step. product: all right, if steps fail independently; falls with every
    step (Lightman et al. 2023, arXiv 2305.20050). mean: rewards more good steps around a bad one.
    last: the last step's, which has seen the whole answer.
    """
    if how == "min":
        return min(probabilities)
    if how == "mean":
        return math.fsum(probabilities) / len(probabilities)
    return math.prod(probabilities) if how == "product" else probabilities[-1]


class ProcessReward:
    """sigmoid of a one-label head at each step's last token, aggregated.

    The answer's text is cut into steps as `steps` says and rendered with the reward model's own template,
    as in its training, whatever ids were sampled. `parts` holds all four aggregates under their names and
    the number of `steps`. `tokens` has each step's probability at its last token where the ids read are the
    rollout's own up to the last step's end; else it is None and `reason` says so. An answer without a
    step is an abstention; one that cannot be rendered, or of which `max_tokens` cuts a step off, is an error
    of that rollout alone. Never depends on batch or padding.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        aggregation: Aggregation = "min",
        steps: StepKind = "sentence",
        max_tokens: int | None = None,
    ) -> None:
        self.name, self.engine, self.max_tokens = name, engine, max_tokens
        self.aggregation: Aggregation = aggregation
        self.steps: StepKind = steps

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a non-finite output is an error."""
        rendered = [self._render(r) for r in rollouts]
        rows = [r for r in rendered if not isinstance(r, Score)]
        values = iter(self._probabilities(rows) if rows else ())
        return [
            r if isinstance(r, Score) else self._score(rollout, *r, next(values))
            for rollout, r in zip(rollouts, rendered, strict=True)
        ]

    def _probabilities(self, rows: list[tuple[Tokens, list[int]]]) -> list[list[float]]:
        batch = Batch.pack([sequence for sequence, _ in rows])
        scores = self.engine.frozen_tokens(batch, lambda m: given(self.engine.token_scores(m).token_scores))
        starts = batch.offsets[:-1].tolist()
        return [
            torch.sigmoid(scores[torch.tensor(ends) + start]).tolist()
            for start, (_, ends) in zip(starts, rows, strict=True)
        ]

    def _score(self, rollout: Rollout, read: Tokens, ends: list[int], probabilities: list[float]) -> Score:
        if not all(map(math.isfinite, probabilities)):
            return Score.error(f"{self.name}: the process reward model gave a value that is not finite")
        kinds: tuple[Aggregation, ...] = ("min", "mean", "product", "last")
        parts: dict[str, float] = {how: aggregate(probabilities, how) for how in kinds}
        parts["steps"] = float(len(probabilities))
        own = rollout.sequence
        if own.ids[: ends[-1] + 1] != read.ids[: ends[-1] + 1] or not all(own.action[e] for e in ends):
            reason = f"{self.name}: no values per token, as the text was sampled as other ids than it reads"
            return Score(parts[self.aggregation], parts=parts, reason=reason)
        at = dict(zip(ends, probabilities, strict=True))
        return Score(parts[self.aggregation], parts=parts, tokens=tuple(at.get(t) for t in range(len(own))))

    def _render(self, rollout: Rollout) -> tuple[Tokens, list[int]] | Score:
        """Ids and where the steps end, or why there are none."""
        steps = split_steps(rollout.text, self.steps)
        if not steps:
            return Score.abstain(f"{self.name}: the answer has no step")
        row = Steps(rollout.prompt.messages, steps, (None,) * len(steps), place=rollout.prompt.place)
        try:
            found, ends = render_steps(self.engine.model.tokenizer, row, JOINERS[self.steps], self.max_tokens)
        except UserError as error:
            return Score.error(error.problem)
        if len(ends) < len(steps):
            return Score.error(f"{self.name}: {len(steps) - len(ends)} steps lie beyond max_tokens")
        return found.sequence, ends
