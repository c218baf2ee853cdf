"""Proximal policy optimisation against a reward, with a critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from rewardlab.models.critic import ActorCritic, value_head
from rewardlab.models.loading import load_reward_model
from rewardlab.pipeline import rows
from rewardlab.pipeline.stages.base import Outcome, ProbeSettings, TrainingStage
from rewardlab.training.algorithms.ppo import PPO
from rewardlab.training.algorithms.ppo_settings import PPOSettings

if TYPE_CHECKING:
    from rewardlab.models.engine import Engine
    from rewardlab.pipeline.context import Context


class PPOStage(TrainingStage, PPOSettings):
    """Sample answers and push each token towards what did better than the critic expected."""

    kind: Literal["ppo"] = "ppo"
    reward: str = "reward"
    """Stage name of a reward model, a model folder, or a built-in reward."""
    critic_init: str | None = None
    """Where a separate critic starts: a `reward` stage, or a model; None: where the policy starts."""
    probe: ProbeSettings | None = None

    @model_validator(mode="after")
    def _critic_fits(self) -> PPOStage:
        if self.critic == "shared" and self.critic_init is not None:
            raise ValueError("critic_init: a shared critic is the policy's own trunk; use `critic: separate`")
        return self

    def references(self) -> list[tuple[str, str]]:
        """The reward and the critic's starting point."""
        critic = [] if self.critic_init is None else [("critic_init", self.critic_init)]
        return [("reward", self.reward), *critic, *super().references()]

    def run(self, context: Context) -> Outcome:
        """Train; the policy is the output, the critic stays in the checkpoints."""
        policy = self.policy(context)
        record = context.run.stage(self.name)
        prompts, ids = rows.prompts(context, self.data, self.name, policy.model.tokenizer, self.max_tokens)
        engine = ActorCritic(
            policy, value_head(policy.model) if self.critic == "shared" else self._separate(context)
        )
        algorithm = PPO(
            engine,
            prompts,
            ids,
            context.reward(self.reward, policy),
            self,
            seed=self.seed(context),
            record=record,
            probe=rows.probe(context, self.probe, policy, self.name),
        )

        def peek(step: int, _: Mapping[str, float]) -> None:
            if context.peek and step == 1:
                context.peek_rollouts(record.read_rollouts(step), f"{self.name}: rollout")

        return self.fit(context, algorithm, peek)

    def _separate(self, context: Context) -> Engine:
        """A second model with a head for values, adapters on it as on the policy."""
        settings = context.model_settings(self.critic_init or self.init)
        model = load_reward_model(settings, seed=self.seed(context))
        return context.engine(self.adapt(context, model, reward_head=True))
