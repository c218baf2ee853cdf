"""A reward model from single answers with a number each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import torch

from rewardlab.models.loading import load_reward_model
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, TrainingStage
from rewardlab.records.atomic import write_text
from rewardlab.training.algorithms.pointwise_reward import PointwiseRewardModelling, PointwiseRewardSettings

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class PointwiseRewardStage(TrainingStage, PointwiseRewardSettings):
    """A scalar head on the backbone of `init`, trained on prompt, completion and `label`.

    Usable as a reward by its name. Its value is in the unit of the labels (regression), the logit of good
    (binary), or the expected grade (ordinal). `source: world` gives the labeller's noisy ratings.
    """

    kind: Literal["pointwise_reward"] = "pointwise_reward"

    def run(self, context: Context) -> Outcome:
        """Train."""
        seed = self.seed(context)
        torch.manual_seed(seed)
        model = load_reward_model(context.model_settings(self.init), seed=seed)
        engine = context.engine(self.adapt(context, model, reward_head=True))
        train, held_out = rows.rated(context, self, engine.model.tokenizer, self.target)
        context.peek_at([r.answer for r in train], engine.model.tokenizer, f"{self.name}: answer")
        algorithm = PointwiseRewardModelling(engine, train, held_out, self, seed=seed)
        outcome = self.fit(context, algorithm)
        facts = {"max_tokens": self.max_tokens, "labels": algorithm.labels}
        write_text(context.run.stage(self.name).output / "reward.json", json.dumps(facts))
        return outcome
