"""The reward that a pair of policies implies: how much more likely one makes an answer than the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from rewardlab.core.batch import Batch, given
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score, Steps
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_steps
from rewardlab.data.steps import JOINERS, StepKind, split_steps
from rewardlab.models.engine import Engine
from rewardlab.models.loading import same_tokenizer
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.reading import Reader


class ImplicitReward:
    """value = beta * sum_t [log pi(a_t | s_t) - log ref(a_t | s_t)] over the answer's tokens, stop included.

    If `pi` was trained by DPO from `ref`, this is its reward up to a constant per prompt (Rafailov et al.,
    arXiv 2305.18290): the difference of two answers' values is the logit of the DPO loss. `Score.tokens`
    holds the terms where the ids read are the rollout's own, in its positions, 0 outside actions;
    `step_values` sums them by step. Values of different prompts are not comparable.
    """

    def __init__(
        self,
        name: str,
        policy: Engine,
        reference: Engine,
        *,
        beta: float = 0.1,
        max_tokens: int | None = None,
        reads_ids: bool = False,
    ) -> None:
        if not same_tokenizer(policy.model, reference.model):
            raise UserError(
                f"{name}: {policy.model.source} and {reference.model.source} have different tokenizers.",
                "An implicit reward needs two policies with one tokenizer and chat template.",
            )
        self.name, self.policy, self.reference, self.beta = name, policy, reference, beta
        self.read = Reader(policy.model.tokenizer, max_tokens, reads_ids)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a non-finite value is an error, an answer without a token an abstention."""
        found = [self.read(r) for r in rollouts]
        terms = iter(self._terms([x for x in found if isinstance(x, Tokens)]))
        return [
            Score.error(x) if isinstance(x, str) else self._score(r, x, next(terms))
            for r, x in zip(rollouts, found, strict=True)
        ]

    def _score(self, rollout: Rollout, row: Tokens, terms: list[float]) -> Score:
        if not row.actions:
            return Score.abstain(f"{self.name}: the answer has no token")
        value = math.fsum(terms) if all(map(math.isfinite, terms)) else math.nan
        if not math.isfinite(value):
            return Score.error(f"{self.name}: a log-prob is not finite")
        own = (row.ids, row.action) == (rollout.sequence.ids, rollout.sequence.action)
        return Score(value, parts={self.name: value}, tokens=tuple(terms) if own else None)

    def step_values(self, rollouts: Sequence[Rollout], kind: StepKind) -> list[list[float] | Score]:
        """beta * log pi / ref of each step of each answer; a score that says why where there are none.

        The answer is put together again from its steps (see `split_steps`). A step's value sums its tokens'
        and those of the separator before it; the first one's begins with the answer, and the stop token,
        which belongs to no step, is left out.
        """
        found = [self._render(r, kind) for r in rollouts]
        terms = iter(self._terms([x[0] for x in found if not isinstance(x, Score)]))
        return [x if isinstance(x, Score) else _sums(next(terms), x[1]) for x in found]

    def _terms(self, rows: list[Tokens]) -> list[list[float]]:
        """beta * log pi / ref of each token of each sequence; 0 where it is no action."""
        if not rows:
            return []
        batch = Batch.pack(rows)
        ours, theirs = (given(e.frozen_logprobs(batch).logp) for e in (self.policy, self.reference))
        flat, offsets = (self.beta * (ours - theirs)).tolist(), batch.offsets.tolist()
        return [flat[a:b] for a, b in pairwise(offsets)]

    def _render(self, rollout: Rollout, kind: StepKind) -> tuple[Tokens, list[int]] | Score:
        steps = split_steps(rollout.text, kind)
        if not steps:
            return Score.abstain(f"{self.name}: the answer has no step")
        row = Steps(rollout.prompt.messages, steps, (None,) * len(steps), place=rollout.prompt.place)
        try:
            found, ends = render_steps(self.read.tokenizer, row, JOINERS[kind], self.read.max_tokens)
        except UserError as error:
            return Score.error(error.problem)
        if len(ends) < len(steps):
            return Score.error(f"{self.name}: {len(steps) - len(ends)} steps lie beyond max_tokens")
        return found.sequence, ends


def _sums(terms: list[float], ends: list[int]) -> list[float]:
    """Sums of the terms up to and with each end, from the one before."""
    return [math.fsum(terms[a + 1 : b + 1]) for a, b in pairwise([-1, *ends])]


class ImplicitSettings(RewardSettings):
    """beta * log pi / ref of two policies."""

    kind: Literal["implicit"] = "implicit"
    policy: str
    """The policy whose preference counts, such as the output of a `dpo` stage."""
    reference: str = "base"
    """What it is compared with, such as the model that `dpo` started from."""
    beta: float = 0.1
    """DPO's own coefficient makes the values those of its loss."""
    max_tokens: int | None = None
    reads_ids: bool = False
    """Read sampled ids as they are; only where the sampled policy has this one's tokenizer and template."""

    def build(self, name: str, resolver: Resolver) -> ImplicitReward:
        """The reward."""
        policy, reference = resolver.policy(self.policy), resolver.policy(self.reference)
        options = self.model_dump(include={"beta", "max_tokens", "reads_ids"})
        return ImplicitReward(name, policy, reference, **options)
