"""A reward that was kept apart from length: the quality head of a two-head model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.models.engine import Engine
from rewardlab.objectives.reward import disentangled
from rewardlab.rewards.heads import Heads, HeadsReader, fit

NAMES = ("quality", "verbosity")


class DisentangledReward:
    """The `quality` head's value; `parts` hold `verbosity`, the head that explains the length, too."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        heads: Heads,
        *,
        max_tokens: int | None = None,
        reads_ids: bool = False,
    ) -> None:
        if heads.names != NAMES:
            raise UserError(f"{name}: heads {heads.names}.", f"Fit two heads named {NAMES}.")
        self.name = name
        self.heads = HeadsReader(engine, heads, max_tokens=max_tokens, reads_ids=reads_ids)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return self.heads.score(rollouts, lambda values: Score(values["quality"], parts=values))


def fit_disentangled(
    heads: Heads,
    chosen: Tensor,
    rejected: Tensor,
    lengths: tuple[Tensor, Tensor],
    label: Tensor | None = None,
    *,
    length_weight: float = 1.0,
    orthogonal_weight: float = 1.0,
    steps: int = 300,
    learning_rate: float = 0.01,
    decay: float = 1e-2,
) -> float:
    """The objective `disentangled` on frozen states Float[P, H] and lengths Float[P] of both answers.

    Afterwards the biases make both heads' means over these answers zero.
    """
    if heads.names != NAMES or heads.rank:
        raise UserError("the two-head model needs linear heads `quality` and `verbosity`.", "Use rank 0.")
    states, length = torch.cat([chosen, rejected]), torch.cat(lengths).float()
    heads.standardise(states)
    y = torch.ones(len(chosen)) if label is None else label

    def loss() -> Tensor:
        quality, verbosity = heads(states).unbind(1)
        return disentangled(
            quality,
            verbosity,
            length,
            y,
            (heads.weight[0], heads.weight[1]),
            length_weight=length_weight,
            orthogonal_weight=orthogonal_weight,
        )

    last = fit(heads, loss, steps=steps, learning_rate=learning_rate, decay=decay)
    with torch.no_grad():
        heads.bias.sub_(heads(states).mean(0))
    return last
