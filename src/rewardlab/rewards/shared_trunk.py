"""An ensemble of heads on one frozen trunk: K opinions for the price of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewardlab.core.types import Rollout, Score
from rewardlab.models.engine import Engine
from rewardlab.objectives.reward import soft_logistic
from rewardlab.rewards.ensemble import Aggregate, joined
from rewardlab.rewards.heads import Heads, HeadsReader, fit


class SharedTrunkEnsemble:
    """`Ensemble` whose members are heads on one trunk: `parts` hold every head, `uncertainty` is their std.

    The heads disagree about what the data left open, not about what the trunk cannot see: an error in the
    trunk's features is shared by all of them, and the std is blind to it.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        heads: Heads,
        *,
        aggregate: Aggregate = "mean",
        penalty: float = 1.0,
        max_tokens: int | None = None,
        reads_ids: bool = False,
    ) -> None:
        self.name, self.penalty = name, penalty
        self.aggregate: Aggregate = aggregate
        self.heads = HeadsReader(engine, heads, max_tokens=max_tokens, reads_ids=reads_ids)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return self.heads.score(rollouts, lambda v: joined(self.name, v, self.aggregate, self.penalty))


def fit_preferences(
    heads: Heads,
    chosen: Tensor,
    rejected: Tensor,
    label: Tensor | None = None,
    *,
    bootstrap: bool = True,
    seed: int = 0,
    steps: int = 300,
    learning_rate: float = 0.01,
    decay: float = 1e-2,
) -> float:
    """Bradley-Terry on frozen states Float[P, H] of both answers, each head on its own bootstrap.

    loss = sum_k 1/P sum_p n_kp [-y log sigmoid(d_kp) - (1 - y) log sigmoid(-d_kp)]
    d_kp = v_k(chosen_p) - v_k(rejected_p)

    n_k are the multinomial counts of P draws with replacement from `seed`; 1 without `bootstrap`, when the
    heads differ only by where they start. Afterwards each head's bias makes its mean over these answers
    zero, so that heads share a zero. Returns the mean loss of a head.
    """
    pairs, k = len(chosen), len(heads.names)
    both = torch.cat([chosen, rejected])
    heads.standardise(both)
    weight = torch.ones(pairs, k)
    if bootstrap:
        counts = np.random.default_rng(seed).multinomial(pairs, [1 / pairs] * pairs, size=k)
        weight = torch.tensor(counts.T, dtype=torch.float32)
    y = torch.ones(pairs) if label is None else label

    def loss() -> Tensor:
        gap = heads(chosen) - heads(rejected)
        return (weight * soft_logistic(gap, y[:, None])).sum() / pairs

    last = fit(heads, loss, steps=steps, learning_rate=learning_rate, decay=decay)
    with torch.no_grad():
        heads.bias.sub_(heads(both).mean(0))
    return last / k
