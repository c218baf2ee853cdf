"""Mean and deviation of everything seen so far, to bring rewards or returns to one scale; checkpointed."""

from __future__ import annotations

import math

from torch import Tensor


class Normaliser:
    """x -> (x - mean) / std over all values of all `look`s, each counted once.

    Sums are in fp64 and merged as in Chan, Golub and LeVeque 1983, so how the values were split over looks
    does not matter. std is that of the population; where it is 0, or before the first value, it is taken as 1
    (and the mean before the first value as 0), so equal values become 0 and never NaN.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    @property
    def std(self) -> float:
        """The divisor."""
        found = math.sqrt(self.squares / self.count) if self.count else 0.0
        return found if found > 1e-8 else 1.0

    def look(self, values: Tensor) -> None:
        """Take in values of any shape."""
        x = values.double()
        n = x.numel()
        if not n:
            return
        mean = float(x.mean())
        gap, total = mean - self.mean, self.count + n
        self.squares += float(((x - mean) ** 2).sum()) + gap**2 * self.count * n / total
        self.mean += gap * n / total
        self.count = total

    def normal(self, x: Tensor) -> Tensor:
        """To mean 0 and deviation 1."""
        return (x - self.mean) / self.std

    def original(self, x: Tensor) -> Tensor:
        """Back to the units of what was looked at."""
        return x * self.std + self.mean

    def state(self) -> dict[str, float]:
        """The three sums."""
        return {"count": float(self.count), "mean": self.mean, "squares": self.squares}

    def load_state(self, state: dict[str, float]) -> None:
        """Take back what `state()` gave."""
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]
