"""Heads on ratings of answers, and their weights: fixed, or from a gate that reads the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.objectives.reward.disentangled import correlation
from rewardlab.rewards.heads import Heads
from rewardlab.rewards.multi_objective import fit_gate, fit_ratings
from rewardlab.rewards.reading import last_states
from rewardlab.training.demonstrations import prompt_ids
from rewardlab.training.pairs import PairRow


def fit_rated(
    heads: Heads,
    gate: Heads | None,
    engine: Engine,
    pairs: Rows[PairRow],
    states: tuple[Tensor, Tensor, Tensor],
    **options: Any,
) -> float:
    """Fit the heads to the ratings and then the gate, where there is one, to the preferences.

    `states`: last states Float[P, H] of chosen and rejected answers and labels Float[P]. Returns the loss of
    the last of the two.
    """
    chosen, rejected, label = states
    loss = fit_ratings(heads, torch.cat([chosen, rejected]), torch.cat(ratings(pairs)), **options)
    if gate is None:
        return loss
    with torch.no_grad():
        a, b = heads(chosen), heads(rejected)
    return fit_gate(gate, prompt_states(engine, pairs), a, b, label, **options)


def ratings(pairs: Rows[PairRow]) -> tuple[Tensor, Tensor]:
    """Ratings of the chosen and of the rejected answers, Float[P, K] each; NaN where nobody rated."""
    nothing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    given = [p.ratings or nothing for p in pairs]
    return torch.tensor([c for c, _ in given]), torch.tensor([r for _, r in given])


def prompt_states(engine: Engine, pairs: Rows[PairRow]) -> Tensor:
    """Last states Float[P, H] of the prompts."""
    ids = [prompt_ids(p.chosen) for p in pairs]
    return last_states(engine, [Sequence(tuple(x), (False,) * len(x)) for x in ids])


def measure_rated(
    heads: Heads,
    weighting: dict[str, float] | Heads,
    engine: Engine,
    pairs: Rows[PairRow],
    states: tuple[Tensor, Tensor, Tensor],
) -> dict[str, float]:
    """Accuracy of the weighted sum, and how far each head goes with its ratings."""
    chosen, rejected, label = states
    with torch.no_grad():
        a, b = heads(chosen), heads(rejected)
        if isinstance(weighting, Heads):
            weights = torch.softmax(weighting(prompt_states(engine, pairs)), -1)
        else:
            weights = torch.tensor([[weighting[n] for n in heads.names]])
    gap = (weights * (a - b)).sum(1)
    found = {"accuracy": float(((1 + torch.sign(label - 0.5) * torch.sign(gap)) / 2).mean())}
    values, rated = torch.cat([a, b]), torch.cat(ratings(pairs))
    for k, name in enumerate(heads.names):
        known = ~rated[:, k].isnan()
        at = float(correlation(values[known, k], rated[known, k])) if bool(known.any()) else math.nan
        if math.isfinite(at):
            found[f"correlation/{name}"] = at
    return found
