"""A policy whose every answer can be listed: all strings up to a length over a tiny vocabulary.

It plays the engine: `Tabular.logprobs(batch)` gives `Outputs`. One row of logits for each prompt and prefix,
so it can represent every distribution over strings, and what a method converges to is what its loss asks for
and not what a network can do. fp64 throughout. An expectation over answers is a sum over all of them weighted
by their exact probability, so nothing here is random after the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.types import Sequence
from rewardlab.objectives.reduction import Terms, reduce

State = tuple[int, ...]


class Strings:
    """All answers of at most `length` tokens: shorter ones end in a stop token, the longest need none.

    Token ids: 0 .. letters - 1 are letters, `letters` is the stop token, then one id for each prompt.
    """

    def __init__(self, letters: int = 2, length: int = 3, prompts: int = 2, seed: int = 0) -> None:
        self.letters, self.length, self.prompts = letters, length, prompts
        self.width = letters + 1
        answers: list[State] = []
        for n in range(length + 1):
            stop = () if n == length else (letters,)
            answers += [(*word, *stop) for word in itertools.product(range(letters), repeat=n)]
        self.answers = answers
        self.states = {
            (self.width + p, *word): 0
            for p in range(prompts)
            for n in range(length)
            for word in itertools.product(range(letters), repeat=n)
        }
        for i, state in enumerate(self.states):
            self.states[state] = i
        generator = torch.Generator().manual_seed(seed)
        count = prompts * len(answers)
        self.reward = torch.randn(count, generator=generator, dtype=torch.float64)
        self.reference = torch.randn(len(self.states), self.width, generator=generator, dtype=torch.float64)
        self.batch = self.batch_of(range(count))

    def batch_of(self, members: range | list[int], group: list[int] | None = None) -> Batch:
        """A batch of answers by number (prompt 0's answers, then prompt 1's), with their rewards.

        Groups are the prompts unless given.
        """
        rows = [divmod(i, len(self.answers)) for i in members]
        sequences = [
            Sequence((self.width + p, *self.answers[a]), (False, *(True,) * len(self.answers[a])))
            for p, a in rows
        ]
        batch = Batch.pack(sequences, group=[p for p, _ in rows] if group is None else group)
        state = [0] * batch.ids.numel()
        for start, sequence in zip(batch.offsets.tolist(), sequences):
            for t in range(1, len(sequence)):
                state[start + t] = self.states[sequence.ids[:t]]
        reward = self.reward[list(members)]
        return replace(batch, reward=reward).with_streams(state=torch.tensor(state))

    def pairs(self) -> Batch:
        """Every pair of answers to one prompt, with the Bradley-Terry probability of the first as label."""
        n = len(self.answers)
        pairs = torch.tensor(
            [
                (p * n + a, p * n + b)
                for p in range(self.prompts)
                for a, b in itertools.combinations(range(n), 2)
            ]
        )
        label = torch.sigmoid(self.reward[pairs[:, 0]] - self.reward[pairs[:, 1]])
        return replace(self.batch, pairs=pairs, pair_streams={"label": label})

    def normalise(self, score: Tensor) -> Tensor:
        """Float[N] log-probs: soft-max of a score per answer within each prompt."""
        return score.view(self.prompts, -1).log_softmax(-1).flatten()

    def optimum(self, reference: Tensor, beta: float) -> Tensor:
        """Float[N]: log of pi_ref exp(r / beta) / Z, from the reference's log-prob of each answer."""
        return self.normalise(reference + self.reward / beta)


class Tabular(nn.Module):
    """Soft-max of a free row of logits for each prompt and prefix."""

    def __init__(self, world: Strings, logits: Tensor | None = None) -> None:
        super().__init__()
        self.world = world
        self.logits = nn.Parameter((world.reference if logits is None else logits).clone())

    def logprobs(self, batch: Batch, *, mean: bool = False, vocabulary: bool = False) -> Outputs:
        """As `Engine.logprobs`."""
        rows = self.logits.log_softmax(-1)[batch.streams["state"].long()]  # [T, V]
        action = batch.action.to(rows)
        logp = rows.gather(-1, batch.ids.clamp(max=self.world.width - 1)[:, None]).squeeze(-1) * action
        at = batch.action
        ids = batch.action_streams.get("slice_ids")
        part = rows[at] if ids is None else rows[at].gather(-1, ids)
        return Outputs(
            logp=logp,
            logp_mean=rows.mean(-1) * action if mean else None,
            slice_logp=part if vocabulary else None,
        )

    def answers(self) -> Tensor:
        """Float[N]: log-prob of every answer, with gradient."""
        return sum_by_sequence(given(self.logprobs(self.world.batch).logp), self.world.batch)


def gradient(policy: nn.Module, terms: Terms, batch: Batch) -> Tensor:
    """The gradient that a step on these terms would take, flat."""
    loss = reduce(terms, batch.counts())
    found = torch.autograd.grad(loss, list(policy.parameters()))
    return torch.cat([g.flatten() for g in found])


def natural_descent(policy: Tabular, loss: Callable[[int], Tensor], steps: int, rate: float) -> None:
    """Natural-gradient descent: each logit's gradient divided by the exact probability that it is used.

    For a soft-max table that is the Fisher-preconditioned step. It has the same fixed points as plain
    gradient descent, and the error shrinks by a constant factor a step even at prefixes that are hardly ever
    visited, where plain descent (and Adam) would need 1 / probability steps.
    """
    batch = policy.world.batch
    at = batch.action
    cell = batch.streams["state"][at].long() * policy.world.width + batch.ids[at]
    for step in range(steps):
        (found,) = torch.autograd.grad(loss(step), policy.logits)
        with torch.no_grad():
            probability = policy.answers().exp()[batch.seq][at] / policy.world.prompts
            used = torch.zeros(policy.logits.numel(), dtype=torch.float64).index_add(0, cell, probability)
            policy.logits -= rate * found / used.view_as(policy.logits)


def minimise(policy: nn.Module, loss: Callable[[], Tensor], steps: int = 80) -> None:
    """L-BFGS to machine precision, for losses whose data does not depend on the policy."""
    lbfgs = torch.optim.LBFGS(
        policy.parameters(),
        max_iter=steps,
        tolerance_grad=1e-12,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
        history_size=50,
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = loss()
        value.backward()
        return value

    lbfgs.step(closure)


def distance(logp: Tensor, target: Tensor, prompts: int) -> float:
    """The largest total variation between two sets of answer distributions, over prompts. 0 to 1."""
    gap = (logp.detach().exp() - target.exp()).abs().view(prompts, -1)
    return float(0.5 * gap.sum(-1).max())
