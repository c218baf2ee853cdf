"""The outcome advantages by name, for recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from rewardlab.objectives.advantage import outcome

AdvantageName = Literal[
    "grpo", "grpo_std", "rloo", "reinforce_pp", "reinforce_pp_baseline", "opo", "pass_at_k", "max_rl", "gpg"
]

Outcome = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

ADVANTAGES: dict[str, Outcome] = {
    "grpo": lambda r, g, ok, n, k: outcome.group_relative(r, g, ok),
    "grpo_std": lambda r, g, ok, n, k: outcome.group_relative(r, g, ok, scale_by_std=True),
    "rloo": lambda r, g, ok, n, k: outcome.rloo(r, g, ok),
    "reinforce_pp": lambda r, g, ok, n, k: outcome.reinforce_pp(r, g, ok, length=n),
    "reinforce_pp_baseline": lambda r, g, ok, n, k: outcome.reinforce_pp_baseline(r, g, ok, length=n),
    "opo": lambda r, g, ok, n, k: outcome.opo(r, g, ok, length=n),
    "pass_at_k": lambda r, g, ok, n, k: outcome.pass_at_k(r, g, ok, k=k),
    "max_rl": lambda r, g, ok, n, k: outcome.max_rl(r, g, ok),
    "gpg": lambda r, g, ok, n, k: outcome.gpg(r, g, ok),
}
"""name -> (reward Float[N], group Long[N], valid Bool[N], number of actions Float[N], k) -> Float[N]."""


def by_name(
    name: AdvantageName, reward: Tensor, group: Tensor, valid: Tensor, length: Tensor, *, k: int = 4
) -> Tensor:
    """The advantage of each answer, Float[N]; see `outcome` for the methods and their shared rules.

    `k` is read by pass_at_k alone.
    """
    return ADVANTAGES[name](reward, group, valid, length, k)
