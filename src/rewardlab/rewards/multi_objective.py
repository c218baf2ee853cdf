"""Several named ratings from one trunk, and one reward from them by fixed weights or by a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_prompt
from rewardlab.models.engine import Engine
from rewardlab.objectives.reward import soft_logistic
from rewardlab.rewards.heads import Heads, HeadsReader, fit
from rewardlab.rewards.reading import last_states


class MultiObjectiveReward:
    """value = sum_k g_k v_k over named heads (helpfulness, correctness, ...); `parts` hold every v_k.

    g are fixed `weights` by name, or softmax over k of a second set of heads on the *prompt's* last state:
    the gate may not read the answer, or the policy could choose what it is judged by. Wang et al. 2024
    (ArmoRM, arXiv 2406.12845) gate so. With a gate, `parts` hold the weights too, as `gate/<name>`.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        heads: Heads,
        weighting: Mapping[str, float] | Heads,
        *,
        max_tokens: int | None = None,
        reads_ids: bool = False,
    ) -> None:
        self.name, self.engine, self.weighting = name, engine, weighting
        self.heads = HeadsReader(engine, heads, max_tokens=max_tokens, reads_ids=reads_ids)
        weighted = set(weighting.names if isinstance(weighting, Heads) else weighting)
        if weighted != set(heads.names):
            raise UserError(
                f"{name}: weights for {sorted(weighted)}, heads {sorted(heads.names)}.",
                "Give each head one weight (0 leaves it out).",
            )

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        found = self.heads.score(rollouts, lambda values: Score(0.0, parts=values))
        usable = [i for i, s in enumerate(found) if s.status == "ok"]
        gates = self._gates([rollouts[i] for i in usable])
        for i, gate in zip(usable, gates, strict=True):
            values = found[i].parts
            shown = {f"gate/{k}": g for k, g in gate.items()} if isinstance(self.weighting, Heads) else {}
            total = math.fsum(gate[k] * values[k] for k in values)
            found[i] = Score(total, parts={self.name: total, **values, **shown})
        return found

    def _gates(self, rollouts: list[Rollout]) -> list[Mapping[str, float]]:
        gate = self.weighting
        if not isinstance(gate, Heads):
            return [gate] * len(rollouts)
        if not rollouts:
            return []
        prompts = list(dict.fromkeys(r.prompt.messages for r in rollouts))
        by_prompt = {r.prompt.messages: r.prompt for r in rollouts}
        tokenizer, limit = self.engine.model.tokenizer, self.heads.read.max_tokens
        rows = [render_prompt(tokenizer, by_prompt[p], limit) for p in prompts]
        states = last_states(self.engine, [Tokens(tuple(ids), (False,) * len(ids)) for ids in rows])
        with torch.no_grad():
            weights = torch.softmax(gate(states), -1).tolist()
        named = {p: dict(zip(gate.names, w, strict=True)) for p, w in zip(prompts, weights, strict=True)}
        return [named[r.prompt.messages] for r in rollouts]


def fit_ratings(
    heads: Heads,
    states: Tensor,
    ratings: Tensor,
    *,
    steps: int = 300,
    learning_rate: float = 0.01,
    decay: float = 1e-2,
) -> float:
    """Squared error of each head against its column of ratings.

    loss = sum_k mean over rated rows of (v_k - rating_k)^2

    `states` Float[N, H]; `ratings` Float[N, K], NaN where nobody rated. A column without one is a UserError.
    """
    rated = ~ratings.isnan()
    if not bool(rated.any(0).all()):
        missing = [n for n, ok in zip(heads.names, rated.any(0).tolist(), strict=True) if not ok]
        raise UserError(f"no answer is rated for {missing}.", "Leave those heads out.")
    heads.standardise(states)
    target = torch.where(rated, ratings, torch.zeros_like(ratings))
    with torch.no_grad():
        heads.bias.copy_(target.sum(0) / rated.sum(0))

    def loss() -> Tensor:
        error: Tensor = (heads(states) - target) ** 2 * rated
        return (error.sum(0) / rated.sum(0)).sum()

    return fit(heads, loss, steps=steps, learning_rate=learning_rate, decay=decay)


def fit_gate(
    gate: Heads,
    prompts: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    label: Tensor | None = None,
    *,
    steps: int = 300,
    learning_rate: float = 0.01,
    decay: float = 1e-2,
) -> float:
    """Bradley-Terry on the gated sums; the heads that are gated stay as they are.

    loss = mean_p soft_logistic(sum_k softmax(gate(prompt_p))_k (chosen_pk - rejected_pk), y)

    `prompts` Float[P, H]: last states of the prompts; `chosen`, `rejected` Float[P, K]: the heads' values.
    """
    gate.standardise(prompts)
    y = torch.ones(len(prompts)) if label is None else label

    def loss() -> Tensor:
        gap = (torch.softmax(gate(prompts), -1) * (chosen - rejected)).sum(-1)
        return soft_logistic(gap, y).mean()

    return fit(gate, loss, steps=steps, learning_rate=learning_rate, decay=decay)
