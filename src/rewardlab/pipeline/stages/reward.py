"""A Bradley-Terry reward model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import torch

from rewardlab.models.loading import load_reward_model
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, TrainingStage
from rewardlab.records.atomic import write_text
from rewardlab.training.algorithms.reward import RewardModelling
from rewardlab.training.pairs import pack_pairs

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class RewardStage(TrainingStage):
    """A scalar head on the backbone of `init`, trained on preferences."""

    kind: Literal["reward"] = "reward"
    pairs_per_step: int = 32
    centring: float = 0.01
    """Weight of (s_chosen + s_rejected)^2, which keeps scores around zero."""

    def run(self, context: Context) -> Outcome:
        """Train; the scores are then shifted so that their mean over held-out answers is zero."""
        seed = self.seed(context)
        torch.manual_seed(seed)
        model = load_reward_model(context.model_settings(self.init), seed=seed)
        engine = context.engine(self.adapt(context, model, reward_head=True))
        train, held_out = rows.pairs(context, self, engine.model.tokenizer)
        context.peek_at([p.chosen for p in train], engine.model.tokenizer, f"{self.name}: chosen")
        algorithm = RewardModelling(
            engine,
            train,
            held_out,
            pairs_per_step=self.pairs_per_step,
            centring=self.centring,
            seed=seed,
        )
        outcome = self.fit(context, algorithm)
        scores = engine.frozen_scores(pack_pairs(held_out or train))
        facts = {"offset": float(scores.mean()), "max_tokens": self.max_tokens}
        write_text(context.run.stage(self.name).output / "reward.json", json.dumps(facts))
        return outcome
