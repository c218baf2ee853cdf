"""From losses per token to one number: who is averaged with whom.

| name         | weight of a token          | divided by           | peers call it                          |
|--------------|----------------------------|----------------------|----------------------------------------|
| token        | 1                          | tokens of the step   | DAPO, verl token-mean, TRL dapo, bnpo  |
| sequence     | 1 / its sequence's tokens  | sequences            | GRPO, verl seq-mean-token-mean         |
| constant     | 1 / constant_length        | sequences            | Dr. GRPO (arXiv 2503.20783)            |
| sequence_sum | 1                          | sequences            | LUSPO (2602.05261), seq-mean-token-sum |

`token`: a long answer counts for more than a short one. `sequence`: all answers count the same, so a
token of a long wrong answer is pushed less. `constant` and `sequence_sum`: every token of the step counts
the same whatever its sequence, and the step does not shrink when answers get longer; `constant_length` is
a fixed number of tokens, usually the sampling limit. Only trained tokens are counted, and only sequences
that have one; the counts are the whole step's, so a split into micro-batches changes nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Unit, sum_by_sequence
from rewardlab.core.errors import UserError

Aggregation = Literal["token", "sequence", "constant", "sequence_sum"]


def token_weights(
    batch: Batch, aggregation: Aggregation, constant_length: int | None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Unit]:
    """Float[T]: what each token's loss is multiplied with before the sum, and the unit of the sum.

    Weights that are not 0 or 1 act on the sum and not on the count.
    """
    weight = batch.weight.to(dtype)
    if aggregation == "token":
        return weight, "token"
    if aggregation == "sequence":
        tokens = sum_by_sequence(batch.trained.to(dtype), batch).clamp(min=1)
        return weight / tokens[batch.seq], "sequence"
    if aggregation == "sequence_sum":
        return weight, "sequence"
    if not constant_length or constant_length < 1:
        raise UserError(
            "aggregation: constant divides by a fixed number of tokens and none was given.",
            "Set constant_length, usually the token limit of an answer.",
        )
    return weight / constant_length, "sequence"
