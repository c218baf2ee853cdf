"""What the loop asks of an algorithm, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from rewardlab.core.batch import Batch, Outputs
from rewardlab.models.engine import Engine
from rewardlab.objectives.reduction import Terms

Needs = Literal["logprobs", "logprobs+entropy", "logprobs+vocabulary", "scores", "token_scores"]


class Algorithm(ABC):
    """Fills batches and names the objective that reads them; the loop does the rest."""

    engine: Engine
    needs: Needs = "logprobs"
    """What the engine computes for the objective."""
    learning_rates: Mapping[str, float] = MappingProxyType({})
    """Peak learning rate of single parameters by name; the others have the optimiser settings' own."""

    @abstractmethod
    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        """The data of step `step` (0-based), one optimiser update per batch, and numbers to log."""

    @abstractmethod
    def objective(self, out: Outputs, batch: Batch) -> Terms:
        """Loss terms and statistics of a micro-batch."""

    def compute(self, micro: Batch) -> Outputs:
        """The engine outputs that the objective reads."""
        if self.needs == "scores":
            return self.engine.scores(micro)
        if self.needs == "token_scores":
            return self.engine.token_scores(micro)
        return self.engine.logprobs(
            micro,
            entropy=self.needs == "logprobs+entropy",
            vocabulary=self.needs == "logprobs+vocabulary",
        )

    def evaluate(self) -> Mapping[str, float]:
        """Numbers on held-out data; `eval_loss` is what early stopping watches."""
        return {}

    def state(self) -> dict[str, Any]:
        """Whatever the next batch depends on and the step number does not determine."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state()` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint has {sorted(state)}")
