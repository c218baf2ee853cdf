"""Advantages per token: GAE, discounted returns, process rewards. Time runs over *actions* only.

Prompt, tool output and injected text are not steps: between two actions there is one step, however many
observation tokens stand between them, so credit does not decay across a tool's answer. A reward that
stands on an observation token belongs to the last action before it; one before the first action was not
earned and is left out. All streams are Float[T] over a `Batch`; results are 0 outside actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.objectives.advantage.groups import Groups


@dataclass(frozen=True)
class Steps:
    """The actions of each sequence as rows of a matrix, padded on the right. A: most actions of any."""

    at: Tensor
    """Long[M]: flat positions of all actions."""
    row: Tensor
    """Long[M]: sequence of each action."""
    column: Tensor
    """Long[M]: which action of its sequence."""
    shape: tuple[int, int]
    """(N, A)."""

    @staticmethod
    def of(batch: Batch) -> Steps:
        """Find the actions."""
        at = batch.action.nonzero().squeeze(-1)
        row = batch.seq[at]
        counts = torch.bincount(row, minlength=batch.size)
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
        column = torch.arange(len(at), device=at.device) - first[row]
        return Steps(at, row, column, (batch.size, int(counts.max()) if len(at) else 0))

    def rows(self, x: Tensor) -> Tensor:
        """Float[N, A] of a Float[T] stream; 0 in the padding."""
        return torch.zeros(self.shape, dtype=x.dtype, device=x.device).index_put(
            (self.row, self.column), x[self.at]
        )

    def flat(self, rows: Tensor, tokens: int) -> Tensor:
        """Float[T] of a Float[N, A] matrix."""
        zeros = torch.zeros(tokens, dtype=rows.dtype, device=rows.device)
        return zeros.index_put((self.at,), rows[self.row, self.column])

    def earned(self, reward: Tensor, batch: Batch) -> Tensor:
        """Float[N, A]: each action's own reward plus those on the observations that follow it."""
        action = batch.action.long()
        before = torch.cat([action.new_zeros(1), action.cumsum(0)])[batch.offsets[:-1]]
        column = action.cumsum(0) - before[batch.seq] - 1
        some = column >= 0
        zeros = torch.zeros(self.shape, dtype=reward.dtype, device=reward.device)
        return zeros.index_put((batch.seq[some], column[some]), reward[some], accumulate=True)


def at_last_action(outcome: Tensor, batch: Batch) -> Tensor:
    """Float[T]: one reward per sequence, Float[N], placed on its last action."""
    steps = Steps.of(batch)
    found = torch.zeros(batch.ids.numel(), dtype=outcome.dtype, device=outcome.device)
    last = torch.cat([steps.row[1:] != steps.row[:-1], steps.row.new_ones(1, dtype=torch.bool)])
    at = steps.at[last[: len(steps.at)]]
    return found.index_put((at,), outcome[batch.seq[at]])


def gae(
    reward: Tensor,
    value: Tensor,
    batch: Batch,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over actions (Schulman et al. 2015, arXiv 1506.02438).

    delta_k = r_k + gamma V_{k+1} - V_k;  A_k = delta_k + gamma lam A_{k+1};  return_k = A_k + V_k

    k counts the actions of a sequence. `value` at an action is V of the state in which it is chosen.
    V after the last action is 0, or `bootstrap` Float[N] for answers that were cut and not finished.
    Returns (advantage Float[T], return Float[T]). lam = 1 gives discounted returns minus values, lam = 0
    the one-step error. OpenRLHF and older trl walk over padded tokens and let credit decay in tool output.
    """
    steps = Steps.of(batch)
    r, v = steps.earned(reward, batch), steps.rows(value)
    counts = torch.bincount(steps.row, minlength=steps.shape[0])
    end = torch.zeros_like(r[:, 0]) if steps.shape[1] else reward.new_zeros(steps.shape[0])
    if bootstrap is not None:
        end = bootstrap.to(r)
    advantage = torch.zeros_like(r)
    running = torch.zeros_like(end)
    for k in range(steps.shape[1] - 1, -1, -1):
        following = end if k + 1 == steps.shape[1] else torch.where(counts == k + 1, end, v[:, k + 1])
        inside = counts > k
        delta = r[:, k] + gamma * following - v[:, k]
        running = torch.where(inside, delta + gamma * lam * running, torch.zeros_like(running))
        advantage[:, k] = running
    tokens = batch.ids.numel()
    found = steps.flat(advantage, tokens)
    return found, found + value * batch.action


def discounted_returns(reward: Tensor, batch: Batch, *, gamma: float = 1.0) -> Tensor:
    """Float[T]: sum over this and later actions of gamma^(distance in actions) times the reward."""
    return gae(reward, torch.zeros_like(reward), batch, gamma=gamma, lam=1.0)[0]


def process(
    reward: Tensor, step_end: Tensor, batch: Batch, valid: Tensor | None = None, *, scale_by_std: bool = True
) -> Tensor:
    """Per-step rewards, normalised in the group, summed to come (GRPO process supervision, 2402.03300).

    z = (r - mean) / (std + 1e-6) over all step rewards of the group;  A_t = sum of z of steps that end at
    or after t

    `reward` Float[T] is read where `step_end` Bool[T]. Statistics are over steps, so an answer with many
    steps weighs more in them. `valid` Bool[N] leaves whole answers out. A group whose step rewards are
    all equal, or that has one step in all, gets 0. Without `scale_by_std` only centred.
    """
    at = step_end.nonzero().squeeze(-1)
    owner = batch.seq[at]
    groups = Groups(batch.group[owner], None if valid is None else valid[owner])
    z = groups.centred(reward[at])
    if scale_by_std:
        z = z / (groups.std(z)[groups.number] + 1e-6)
    placed = torch.zeros_like(reward).index_put((at,), z)
    return discounted_returns(placed, batch)
