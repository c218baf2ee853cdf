"""Policy gradients on groups of the policy's own answers: one algorithm, and its relatives as presets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.objectives import kl
from rewardlab.objectives import policy_gradient as pg
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome
from rewardlab.pipeline.stages.online import RewardedStage
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.credit import Advantage
from rewardlab.training.judged import build_judge

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class GroupStage(RewardedStage, GRPOSettings):
    """What the kinds share; each only changes defaults, and a recipe may change them back."""

    def references(self) -> list[tuple[str, str]]:
        """The judge's reward, where there is a judge."""
        judge = [] if self.judge is None else [("judge.reward", self.judge.reward)]
        return [*judge, *super().references()]

    def run(self, context: Context) -> Outcome:
        """Train."""
        engine = self.policy(context)
        experience = self.experience(context, engine, self, self.prompts_per_step)
        probe = rows.probe(context, self.probe, engine, self.name)
        judge = None
        if self.judge is not None:
            judge = build_judge(context.reward(self.judge.reward, engine), self.judge, self.seed(context))
        return self.fit_online(context, GRPO(engine, experience, self, probe=probe, judge=judge))


class GRPOStage(GroupStage):
    """Sample groups of answers and push each towards how far it beats its group."""

    kind: Literal["grpo"] = "grpo"


class RLOOStage(GroupStage):
    """Each answer against the mean of the others; whole answers, KL in the reward (arXiv 2402.14740)."""

    kind: Literal["rloo"] = "rloo"
    advantage: Advantage = "rloo"
    loss: pg.LossName = "reinforce"
    aggregation: pg.Aggregation | None = "sequence_sum"
    kl_estimator: kl.Estimator = "k1"
    kl_placement: kl.Placement = "reward"


class ReinforcePPStage(GroupStage):
    """Normalised over the batch, PPO's clip, KL in the reward (REINFORCE++, arXiv 2501.03262)."""

    kind: Literal["reinforce_pp"] = "reinforce_pp"
    advantage: Advantage = "reinforce_pp"
    kl_estimator: kl.Estimator = "k1"
    kl_placement: kl.Placement = "reward"


class GSPOStage(GroupStage):
    """One importance ratio per answer, clipped (GSPO, arXiv 2507.18071)."""

    kind: Literal["gspo"] = "gspo"
    advantage: Advantage = "grpo_std"
    loss: pg.LossName = "gspo"
    kl_coefficient: float = 0.0


class CISPOStage(GroupStage):
    """The importance weight is cut and the gradient of no token is (CISPO, arXiv 2506.13585)."""

    kind: Literal["cispo"] = "cispo"
    advantage: Advantage = "grpo_std"
    loss: pg.LossName = "cispo"
    kl_coefficient: float = 0.0


class GVPOStage(GroupStage):
    """Regress implicit rewards on rewards within each group (GVPO, arXiv 2504.19599)."""

    kind: Literal["gvpo"] = "gvpo"
    loss: pg.LossName = "gvpo"
    kl_coefficient: float = 0.0


class RiskPOStage(GroupStage):
    """Push bundles of prompts that score low down, by tracked quantiles (RiskPO, arXiv 2510.00911)."""

    kind: Literal["riskpo"] = "riskpo"
    prompts_per_step: int = 10
    advantage: Advantage = "riskpo"
    kl_coefficient: float = 0.0
