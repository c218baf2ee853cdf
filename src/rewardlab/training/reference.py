"""Log-probs of given sequences by the starting policy: computed once, or read from an earlier run's cache."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import TypeVar

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, given
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.models.reference_cache import ReferenceCache

ROWS_AT_ONCE = 512
Row = TypeVar("Row")


def sequence_logprobs(
    engine: Engine,
    rows: Rows[Sequence],
    progress: Progress = NO_PROGRESS,
    cache: ReferenceCache | None = None,
) -> list[Tensor]:
    """Each sequence's log-probs by the policy as it is now, Float[its length], without gradient."""

    def compute(chunk: Rows[Sequence]) -> Tensor:
        return given(engine.frozen_logprobs(Batch.pack(chunk)).logp)

    return row_logprobs(compute, rows, lambda r: (r,), ROWS_AT_ONCE, progress, cache)


def row_logprobs(
    compute: Callable[[Rows[Row]], Tensor],
    rows: Rows[Row],
    sequences: Callable[[Row], tuple[Sequence, ...]],
    at_once: int,
    progress: Progress,
    cache: ReferenceCache | None,
) -> list[Tensor]:
    """For each row the log-probs of its sequences end to end, as `compute` gives them for several rows.

    With a cache only the rows are computed that have a sequence it does not know.
    """
    found: list[Tensor] = []
    with progress.task("reference log-probs", len(rows)) as task:
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            if cache is None:
                found += compute(chunk).split([sum(map(len, sequences(r))) for r in chunk])
            else:
                unknown = [r for r in chunk if any(s not in cache for s in sequences(r))]
                if unknown:
                    each = [s for r in unknown for s in sequences(r)]
                    cache.add(each, compute(unknown).split([len(s) for s in each]))
                found += [torch.cat([cache[s] for s in sequences(r)]) for r in chunk]
            task.advance(len(chunk))
    return found
