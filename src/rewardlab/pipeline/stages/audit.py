"""The report card of a reward on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rewardlab.audit import audit_reward
from rewardlab.audit.padding import FILLER
from rewardlab.core.types import Rollout, Score
from rewardlab.pipeline import rows
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage
from rewardlab.worlds.advice.language import FILLERS

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class AuditStage(Stage):
    """Is the reward right, calibrated, fooled by length, moved by padding?"""

    kind: Literal["audit"] = "audit"
    reward: str = "reward"
    """Stage name of a reward model, a model folder, or a built-in reward."""
    data: Sources

    def references(self) -> list[tuple[str, str]]:
        """The reward."""
        return [("reward", self.reward)]

    def run(self, context: Context) -> Outcome:
        """Audit."""
        pairs = []
        for number, data in enumerate(self.data):
            use = f"{self.name}.data.{number}" if len(self.data) > 1 else f"{self.name}.data"
            loaded = rows.load_pairs(context, data, use)
            context.run.add_data(use, loaded.facts())
            pairs.extend(loaded.rows)
        of_world = all(data.source.startswith("world") for data in self.data)
        reward = context.reward(self.reward)
        padding = FILLERS[:3] if of_world else FILLER  # in a world, sentences that its rewards have seen
        answers = 2 * len(pairs) * (1 + len(padding))
        with context.progress.task(f"{self.name}: scoring", answers) as task:

            def score(rollouts: Sequence[Rollout]) -> list[Score]:
                scores = reward.score(rollouts)
                task.advance(len(rollouts))
                return scores

            card = audit_reward(score, pairs, seed=derive(context.recipe.seed, self.name), padding=padding)
        return {"reward_model": card}
