"""A frozen model that a student learns from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, given
from rewardlab.core.errors import UserError
from rewardlab.models.engine import Engine
from rewardlab.models.loading import same_tokenizer


class Teacher:
    """Log-probs at the student's own tokens, and distributions at its positions, at the batch's temperature.

    Refuses a teacher whose tokenizer or chat template is not the student's: ids would mean other things.
    """

    def __init__(self, engine: Engine, student: Engine) -> None:
        if not same_tokenizer(engine.model, student.model):
            raise UserError(
                f"distillation: the teacher {engine.model.source} has another tokenizer or chat template "
                f"than the student {student.model.source}.",
                "Take a teacher of the same family, or imitate its written answers with an `sft` stage.",
            )
        self.engine = engine

    def logprobs(self, batch: Batch) -> Tensor:
        """Float[T]: log-probs of the actions, without gradient."""
        return given(self.engine.frozen_logprobs(batch).logp)

    def whole(self, batch: Batch) -> Batch:
        """The batch with log-probs Float[A, V] over the vocabulary: for a micro-batch, in one pass."""
        with self.engine.frozen():
            found = given(self.engine.logprobs(batch, vocabulary=True).slice_logp)
        return replace(batch, action_streams={**batch.action_streams, "slice_logp": found})

    def top(self, batch: Batch, k: int) -> Batch:
        """The batch with the k likeliest ids at each action, Long[A, k], and their log-probs Float[A, k]."""
        number = batch.action.cumsum(0) - 1
        size = int(batch.action.sum())
        ids, logp = torch.zeros(size, k, dtype=torch.long), torch.zeros(size, k)
        for rows in self.engine.split(batch):
            part = self.whole(batch.select(rows)).action_streams["slice_logp"]
            best = part.topk(k, -1)
            at = batch.tokens_of(rows)
            place = number[at][batch.action[at]]
            ids[place], logp[place] = best.indices.cpu(), best.values.cpu()
        return replace(batch, action_streams={**batch.action_streams, "slice_ids": ids, "slice_logp": logp})

    @property
    def vocabulary(self) -> int:
        """V, the width of its distributions."""
        return int(self.engine.model.hf.config.get_text_config().vocab_size)
