"""Log-probs of single sequences, computed once."""

from __future__ import annotations

from collections.abc import Sequence as Rows

from torch import Tensor

from rewardlab.core.batch import Batch, given
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine

ROWS_AT_ONCE = 512


def sequence_logprobs(engine: Engine, rows: Rows[Sequence], progress: Progress = NO_PROGRESS) -> list[Tensor]:
    """Each sequence's log-probs by the policy as it is now, Float[its length], without gradient."""
    found: list[Tensor] = []
    with progress.task("reference log-probs", len(rows)) as task:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = Batch.pack(rows[start : start + ROWS_AT_ONCE])
            found += given(engine.frozen_logprobs(batch).logp).split(batch.lengths.tolist())
            task.advance(batch.size)
    return found
