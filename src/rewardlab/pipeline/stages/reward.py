"""A Bradley-Terry reward model, or several that differ."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.models.engine import Engine
from rewardlab.models.loading import add_lora, load_reward_model
from rewardlab.pipeline import rows
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, TrainingStage
from rewardlab.records.atomic import write_folder, write_text
from rewardlab.training.algorithms.reward import RewardModelling
from rewardlab.training.pairs import PairRow, pack_pairs

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class PreferenceStage(TrainingStage):
    """Trains a scalar head on the backbone of `init` on preferences."""

    pairs_per_step: int = 32
    centring: float = 0.01
    """Weight of (s_chosen + s_rejected)^2, which keeps scores around zero."""
    margin_scale: float = Field(default=1.0, ge=0)
    """By how much the chosen answer must win: this times the pair's column `margin`, 0 where it has none."""
    smoothing_rate: float = Field(default=0.0, ge=0, le=1)
    """How far the labels move towards the model's own probabilities after each epoch (iterative data
    smoothing); 0 leaves them."""

    def fresh(self, context: Context, seed: int) -> Engine:
        """The model to train, its head and adapters drawn from the seed."""
        torch.manual_seed(seed)
        model = load_reward_model(context.model_settings(self.init), seed=seed)
        if self.lora is not None:
            model = add_lora(model, self.lora, reward_head=True, seed=seed)
        return context.engine(model)

    def train_on(
        self, context: Context, engine: Engine, train: list[PairRow], held_out: list[PairRow], seed: int
    ) -> Outcome:
        """Train; the scores are then shifted so that their mean over held-out answers is zero."""
        algorithm = RewardModelling(
            engine,
            train,
            held_out,
            pairs_per_step=self.pairs_per_step,
            centring=self.centring,
            seed=seed,
            smoothing_rate=self.smoothing_rate,
        )
        outcome = self.fit(context, algorithm)
        scores = engine.frozen_scores(pack_pairs(held_out or train))
        facts = {"offset": float(scores.mean()), "max_tokens": self.max_tokens}
        write_text(context.run.stage(self.name).output / "reward.json", json.dumps(facts))
        return outcome

    def rows(self, context: Context, engine: Engine) -> tuple[list[PairRow], list[PairRow]]:
        """Training and held-out pairs."""
        train, held_out = rows.pairs(context, self, engine.model.tokenizer)
        context.peek_at([p.chosen for p in train], engine.model.tokenizer, f"{self.name}: chosen")
        if self.margin_scale == 1:
            return train, held_out
        if all(p.margin is None for p in train):
            raise UserError(
                f"stages.{self.name}: `margin_scale` is set, but no training pair has a `margin`.",
                "Map the column with `columns: {margin: ...}`, or leave `margin_scale` out.",
            )
        return self._scaled(train), self._scaled(held_out)

    def _scaled(self, pairs: list[PairRow]) -> list[PairRow]:
        return [replace(p, margin=self.margin_scale * (p.margin or 0.0)) for p in pairs]


class RewardStage(PreferenceStage):
    """A scalar head on the backbone of `init`, trained on preferences."""

    kind: Literal["reward"] = "reward"

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.fresh(context, self.seed(context))
        return self.train_on(context, engine, *self.rows(context, engine), self.seed(context))


class RewardEnsembleStage(PreferenceStage):
    """Several reward models trained alike but for what `vary` names; one reward with an uncertainty.

    Member k is recorded as the stage `<name>.member-<k>`, and can be used by its folder.
    """

    kind: Literal["reward_ensemble"] = "reward_ensemble"
    members: int = Field(default=4, ge=2)
    vary: list[Literal["seed", "data"]] = ["seed", "data"]
    """`seed`: head, adapters and order of rows. `data`: each member has its own bootstrap of the pairs."""
    inits: list[str] = []
    """Starting points taken in turn, so that members have different trunks; empty: all start from `init`."""
    aggregate: Literal["mean", "min", "mean_minus_std", "mean_minus_variance"] = "mean"
    """The reward's value from the members'."""
    penalty: float = Field(default=1.0, ge=0)
    """What a unit of std or variance costs."""

    def references(self) -> list[tuple[str, str]]:
        """The starting points, and what the probe needs."""
        return [*super().references(), *(("inits", name) for name in self.inits)]

    def run(self, context: Context) -> Outcome:
        """Train one member after another; one that is done is not trained again."""
        record = context.run.stage(self.name)
        record.truncate_to(0)
        outcomes = []
        for k in range(self.members):
            own = context.run.stage(f"{self.name}.member-{k}")
            outcome = own.done()
            if outcome is None:
                outcome = self._train_member(context, k, own.name)
                own.finish(outcome)
            outcomes.append(outcome)
            record.metrics(k + 1, **outcome["final"])
        facts = {
            "members": [f"../../{self.name}.member-{k}/output" for k in range(self.members)],
            "aggregate": self.aggregate,
            "penalty": self.penalty,
        }
        write_folder(record.output, lambda folder: write_text(folder / "ensemble.json", json.dumps(facts)))
        final = {key: fmean(o["final"][key] for o in outcomes) for key in outcomes[0]["final"]}
        total = {key: sum(o[key] for o in outcomes) for key in ("steps", "seconds")}
        return {**total, "final": final}

    def _train_member(self, context: Context, k: int, name: str) -> Outcome:
        start = self.inits[k % len(self.inits)] if self.inits else self.init
        member = self.model_copy(update={"name": name, "init": start})
        seed = derive(context.recipe.seed, name if "seed" in self.vary else self.name)
        engine = member.fresh(context, seed)
        train, held_out = self.rows(context, engine)  # read as this stage's, so all members share them
        if "data" in self.vary:
            rng = np.random.default_rng(derive(context.recipe.seed, name, "bootstrap"))
            train = [train[i] for i in rng.integers(len(train), size=len(train))]
        return member.train_on(context, engine, train, held_out, seed)
