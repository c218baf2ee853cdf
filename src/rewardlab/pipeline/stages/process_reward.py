"""A process reward model: right or wrong, step by step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import torch

from rewardlab.data.steps import StepKind
from rewardlab.models.loading import load_reward_model
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, TrainingStage
from rewardlab.records.atomic import write_text
from rewardlab.rewards.process import Aggregation
from rewardlab.training.algorithms.process_reward import ProcessRewardModelling

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class ProcessRewardStage(TrainingStage):
    """A scalar head on the backbone of `init`, trained on labelled steps; usable as a reward by its name."""

    kind: Literal["process_reward"] = "process_reward"
    rows_per_step: int = 32
    """Answers in each optimiser step."""
    steps_are: StepKind = "line"
    """What parts an answer into steps; the data's steps are joined in the same way."""
    aggregation: Aggregation = "min"
    """How the steps' probabilities become the value of an answer when it is used as a reward."""

    def run(self, context: Context) -> Outcome:
        """Train."""
        seed = self.seed(context)
        torch.manual_seed(seed)
        model = load_reward_model(context.model_settings(self.init), seed=seed)
        engine = context.engine(self.adapt(context, model, reward_head=True))
        train, held_out = rows.steps(context, self, engine.model.tokenizer, self.steps_are)
        context.peek_at([r.sequence for r in train], engine.model.tokenizer, f"{self.name}: row")
        algorithm = ProcessRewardModelling(
            engine, train, held_out, rows_per_step=self.rows_per_step, seed=seed
        )
        outcome = self.fit(context, algorithm)
        facts = {"aggregation": self.aggregation, "steps": self.steps_are, "max_tokens": self.max_tokens}
        write_text(context.run.stage(self.name).output / "process.json", json.dumps(facts))
        return outcome
