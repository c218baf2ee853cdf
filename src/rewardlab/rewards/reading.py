"""From a rollout to the ids that a model reads, and from those back to one score per rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_example
from rewardlab.models.engine import Engine


@dataclass(frozen=True)
class Reader:
    """How a model is shown an answer.

    With `reads_ids` (the policy has the same tokenizer and template) a sampled rollout's own ids are read, so
    an answer cut by the token limit is seen as cut; otherwise, and for answers that were not sampled,
    the text is rendered with the model's own template, cut to `max_tokens`. `whole` keeps what the template
    writes behind the answer. Ids are read at temperature 1, whatever they were sampled at.
    """

    tokenizer: Any
    max_tokens: int | None = None
    reads_ids: bool = False
    whole: bool = False

    def __call__(self, rollout: Rollout) -> Tokens | str:
        """Ids, or why there are none."""
        if self.reads_ids and rollout.sequence.actions:
            return replace(rollout.sequence, temperature=1.0)
        answer = Message("assistant", rollout.text)
        example = Example((*rollout.prompt.messages, answer), place=rollout.prompt.place)
        try:
            return render_example(self.tokenizer, example, self.max_tokens, whole=self.whole).sequence
        except UserError as error:
            return error.problem


def score_readable(
    rollouts: Sequence[Rollout],
    read: Callable[[Rollout], Tokens | str],
    compute: Callable[[list[Tokens]], list[Score]],
) -> list[Score]:
    """One score per rollout: what `compute` makes of the readable ones, an error for each of the others."""
    found = [read(r) for r in rollouts]
    rows = [x for x in found if isinstance(x, Tokens)]
    scores = iter(compute(rows) if rows else ())
    return [next(scores) if isinstance(x, Tokens) else Score.error(x) for x in found]


def last_states(engine: Engine, rows: Sequence[Tokens]) -> Tensor:
    """Float[N, H]: the trunk's last hidden state at each sequence's last token; no gradient, on the CPU."""
    batch = Batch.pack(rows)
    found = torch.zeros(batch.size, engine.model.hf.config.get_text_config().hidden_size)
    with engine.frozen():
        for chosen in engine.split(batch):
            micro = batch.select(chosen).to(engine.model.device)
            found[chosen] = engine.hidden(micro)[micro.offsets[1:] - 1].float().cpu()
    return found
