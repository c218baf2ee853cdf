"""Heads on the frozen states of one model: an ensemble, quality apart from length, or one for each rating."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.objectives.reward.disentangled import correlation
from rewardlab.pipeline import rows
from rewardlab.pipeline.rated import fit_rated, measure_rated
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage, StageData
from rewardlab.records.atomic import write_folder, write_text
from rewardlab.rewards.disentangled import NAMES, fit_disentangled
from rewardlab.rewards.heads import Heads, save_heads
from rewardlab.rewards.reading import last_states
from rewardlab.rewards.shared_trunk import fit_preferences
from rewardlab.training.pairs import PairRow

if TYPE_CHECKING:
    from rewardlab.models.engine import Engine
    from rewardlab.pipeline.context import Context


class RewardHeadsStage(Stage):
    """Fits heads on preferences in one go; usable as a reward by its name.

    The trunk stays as it is, so K heads cost one forward pass and members differ in what the data left open
    only; `reward_ensemble` trains whole models.
    """

    kind: Literal["reward_heads"] = "reward_heads"
    init: str = "base"
    """The language model whose states are read."""
    data: Sources
    held_out: Sources | None = None
    """Rows to measure on; without it `data.heldout_fraction` sets some aside."""
    max_tokens: int = 1024
    """Longer rows lose the left end of their prompt."""
    objective: Literal["ensemble", "disentangled", "multi_objective"] = "ensemble"
    """`ensemble`: heads on bootstraps of the pairs. `disentangled`: a quality and a length head (ODIN).
    `multi_objective`: a head for each of `ratings`, and their weighted sum."""
    ratings: list[str] = []
    """What answers are rated by: `helpful` reads a pair's `helpful_chosen` and `helpful_rejected`. An answer
    without a rating is left out of that head's fit."""
    weights: dict[str, float] | None = None
    """Of each rating in the value; left out, a gate that reads the prompt is fitted to the preferences."""
    members: int = Field(default=8, ge=2)
    """Heads of an ensemble."""
    rank: int = Field(default=0, ge=0)
    """Rank of each head's non-linear adapter, of members and ratings; 0: linear heads."""
    bootstrap: bool = True
    """Each head of an ensemble has its own bootstrap of the pairs; else they differ by their start alone."""
    aggregate: Literal["mean", "min", "mean_minus_std", "mean_minus_variance"] = "mean"
    """An ensemble's value from its heads'."""
    penalty: float = Field(default=1.0, ge=0)
    """What a unit of std or variance costs."""
    length_weight: float = 1.0
    """How much the disentangled objective minds quality's correlation with length."""
    orthogonal_weight: float = 1.0
    """How much it minds the angle between the two heads."""
    steps: int = 300
    """Adam steps on all pairs at once."""
    learning_rate: float = 0.01
    decay: float = 1e-2
    """Weight of the squared parameters."""

    @model_validator(mode="after")
    def _rated(self) -> RewardHeadsStage:
        if (self.objective == "multi_objective") != bool(self.ratings):
            raise ValueError("`objective: multi_objective` and `ratings` go together; give both or neither")
        if self.weights is not None and set(self.weights) != set(self.ratings):
            raise ValueError(f"give each of the ratings {self.ratings} one weight (0 leaves it out)")
        return self

    def references(self) -> list[tuple[str, str]]:
        """The trunk."""
        return [("init", self.init), *super().references()]

    def sources(self) -> list[StageData]:
        """Every source of pairs."""
        return [*self.data, *(self.held_out or ())]

    def run(self, context: Context) -> Outcome:
        """Compute the states once, fit, measure on held-out pairs."""
        started = time.perf_counter()
        seed = derive(context.recipe.seed, self.name)
        engine = context.policy(self.init)
        train, held_out = rows.pairs(context, self, engine.model.tokenizer)  # type: ignore[arg-type]
        if any(row.weight != 1 or row.margin is not None for row in (*train, *held_out)):
            raise UserError(
                f"stages.{self.name}: the pairs have weights or margins, which heads are not fitted with.",
                "Take them out of the data, or use a `reward` stage.",
            )
        chosen, rejected, label = _states(engine, train)
        options: dict[str, Any] = {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "decay": self.decay,
        }
        width = chosen.shape[1]
        gate = None
        if self.objective == "ensemble":
            names = [f"head_{k}" for k in range(self.members)]
            heads = Heads(width, names, rank=self.rank, seed=seed)
            loss = fit_preferences(
                heads, chosen, rejected, label, bootstrap=self.bootstrap, seed=seed, **options
            )
        elif self.objective == "multi_objective":
            heads = Heads(width, self.ratings, rank=self.rank, seed=seed)
            gate = Heads(width, self.ratings, seed=seed) if self.weights is None else None
            loss = fit_rated(heads, gate, engine, train, (chosen, rejected, label), **options)
        else:
            heads = Heads(width, NAMES, seed=seed)
            loss = fit_disentangled(
                heads,
                chosen,
                rejected,
                _lengths(train),
                label,
                length_weight=self.length_weight,
                orthogonal_weight=self.orthogonal_weight,
                **options,
            )
        final = {"loss": loss, **(self._measure(heads, gate, engine, held_out) if held_out else {})}
        record = context.run.stage(self.name)
        record.truncate_to(0)
        record.metrics(self.steps, **final)
        trunk = context.model_settings(self.init).path
        if Path(trunk).is_dir():  # so that the run folder can be moved
            trunk = os.path.relpath(trunk, record.output)
        facts = {"trunk": trunk, "objective": self.objective, "max_tokens": self.max_tokens}
        facts |= {"aggregate": self.aggregate, "penalty": self.penalty, "weights": self.weights}

        def write(folder: Path) -> None:
            save_heads(heads, folder)
            if gate is not None:
                save_heads(gate, folder / "gate")
            write_text(folder / "reward_heads.json", json.dumps(facts))

        write_folder(record.output, write)
        return {"steps": self.steps, "seconds": time.perf_counter() - started, "final": final}

    def _measure(
        self, heads: Heads, gate: Heads | None, engine: Engine, held_out: list[PairRow]
    ) -> dict[str, float]:
        """Accuracy of the reward on held-out pairs, and what its heads make of length or of each other."""
        chosen, rejected, label = _states(engine, held_out)
        if self.objective == "multi_objective":
            weighting = gate or self.weights or {}
            rated = measure_rated(heads, weighting, engine, held_out, (chosen, rejected, label))
            return {f"eval_{k}": v for k, v in rated.items()}
        with torch.no_grad():
            a, b = heads(chosen), heads(rejected)
        sign = torch.sign(label - 0.5)
        if self.objective == "ensemble":
            right = (1 + sign[:, None] * torch.sign(a - b)) / 2
            of_mean = (1 + sign * torch.sign((a - b).mean(1))) / 2
            spread = torch.cat([a, b]).std(1).mean()
            found = {"accuracy": of_mean.mean(), "head_accuracy": right.mean(), "head_std": spread}
        else:
            values, length = torch.cat([a, b]), torch.cat(_lengths(held_out))
            found = {
                "accuracy": ((1 + sign * torch.sign(a - b)[:, 0]) / 2).mean(),
                "quality_length_correlation": correlation(values[:, 0], length),
                "verbosity_length_correlation": correlation(values[:, 1], length),
            }
        return {f"eval_{k}": float(v) for k, v in found.items()}


def _states(engine: Engine, pairs: list[PairRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Last states Float[P, H] of the chosen and of the rejected answers, and the labels Float[P]."""
    states = last_states(engine, [row for p in pairs for row in (p.chosen, p.rejected)])
    return states[::2], states[1::2], torch.tensor([p.label for p in pairs])


def _lengths(pairs: list[PairRow]) -> tuple[Tensor, Tensor]:
    """Tokens of the chosen and of the rejected answers, Float[P] each."""
    chosen, rejected = [p.chosen.actions for p in pairs], [p.rejected.actions for p in pairs]
    return torch.tensor(chosen).float(), torch.tensor(rejected).float()
