"""Which rows a step sees: a pure function of the step number, so resuming needs no saved position."""

from __future__ import annotations

import numpy as np

from rewardlab.core.errors import UserError


class RowSampler:
    """Rows shuffled anew each epoch, without replacement within one.

    The permutation of epoch e is drawn from (seed, e). A step that crosses the end of an epoch takes its
    last rows from the next one, so every row is seen equally often.
    """

    def __init__(self, rows: int, rows_per_step: int, seed: int) -> None:
        if rows < 1 or rows_per_step < 1:
            raise UserError(
                f"{rows} rows cannot fill steps of {rows_per_step}.",
                "Give data with at least one usable row.",
            )
        self.rows, self.rows_per_step, self.seed = rows, rows_per_step, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def indices(self, step: int) -> list[int]:
        """The rows of a 0-based step."""
        start = step * self.rows_per_step
        return [self._at(k) for k in range(start, start + self.rows_per_step)]

    def _at(self, k: int) -> int:
        epoch, place = divmod(k, self.rows)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        return int(self._order[place])
