"""PPO: sample, give every token its advantage over a learned critic, take several clipped updates.

r_t    = -kl_coefficient * KL_t to the starting policy, plus the answer's score at its last action
A_t    = sum over k >= t of (gamma lam)^(k-t) (r_k + gamma V_{k+1} - V_k);  return_t = A_t + V_t
loss   = - mean over tokens of min(ratio A, clip(ratio) A) + value_coefficient * value loss - entropy bonus

Papers: PPO arXiv 1707.06347, GAE arXiv 1506.02438, per-token KL with a controller arXiv 1909.08593. Time
runs over actions only. Each step is a round: one sampling, then `epochs` passes over it in shuffled
`minibatches`. Answers without a score, and by default those cut by the token limit, train neither policy nor
critic and are counted. All updates clip the gradient of policy and critic by one common norm. Controllers of
the KL's and the entropy's coefficient look at a round's fresh answers before these are priced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.types import Prompt, Rollout
from rewardlab.data.sampler import RowSampler
from rewardlab.models.critic import PREFIX, ActorCritic
from rewardlab.models.engine import Reference
from rewardlab.objectives import kl
from rewardlab.objectives import policy_gradient as pg
from rewardlab.objectives.advantage import at_last_action, gae
from rewardlab.objectives.advantage.groups import batch_normalised
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.value import value_loss
from rewardlab.records.run import StageRecord
from rewardlab.rewards.base import Reward
from rewardlab.rollout.sampler import Sampler, drawing, to_rollouts
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.algorithms.ppo_settings import PPOSettings
from rewardlab.training.control import Control
from rewardlab.training.experience import complete, raw_scores, summary
from rewardlab.training.normaliser import Normaliser
from rewardlab.training.probe import Probe
from rewardlab.training.rounds import explained_variance, shuffled_passes


class PPO(Algorithm):
    """Samples, scores and fills; its state is the generator, the coefficients and the normaliser."""

    engine: ActorCritic

    def __init__(
        self,
        engine: ActorCritic,
        prompts: list[Prompt],
        ids: list[list[int]],
        reward: Reward,
        settings: PPOSettings,
        *,
        seed: int,
        record: StageRecord | None = None,
        probe: Probe | None = None,
    ) -> None:
        s = settings
        self.engine, self.prompts, self.ids = engine, prompts, ids
        self.reward, self.settings, self.record, self.probe = reward, s, record, probe
        self.reference, self.control, self.normaliser = Reference(engine), Control(s), Normaliser()
        self.rows = RowSampler(len(prompts), s.prompts_per_step, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = Sampler(engine, drawing(s))
        if s.critic_learning_rate is not None:
            critic = [name for name in engine.parameters if name.startswith(PREFIX)]
            self.learning_rates = dict.fromkeys(critic, s.critic_learning_rate)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.rows.indices(step)
        groups = self.sampler.sample([self.ids[i] for i in chosen], self.generator, version=step)
        rollouts = to_rollouts([self.prompts[i] for i in chosen], groups, self.engine)
        scores = self.reward.score(rollouts)
        rollouts = [replace(r, score=s) for r, s in zip(rollouts, scores, strict=True)]
        batch, numbers = self.fill(rollouts)
        if self.record:
            self.record.write_rollouts(step + 1, rollouts)
        s = self.settings
        return shuffled_passes(batch, s.epochs, s.minibatches, self.generator), numbers

    def fill(self, rollouts: list[Rollout]) -> tuple[Batch, dict[str, float]]:
        """Rollouts with scores -> a batch with advantage, value, return, weight and logp_ref streams."""
        s = self.settings
        batch = Batch.pack([r.sequence for r in rollouts], group=[r.group for r in rollouts])
        raw, ok = raw_scores(rollouts)
        action = batch.action.float()
        weight = (ok if s.train_truncated else ok & complete(rollouts)).float()[batch.seq] * action
        logp, logp_ref = batch.streams["logp_sample"] * action, self.reference.logprobs(batch)
        drift = float(sum_by_sequence(logp - logp_ref * action, batch).mean())
        surprise = -float(logp.sum() / action.sum().clamp(min=1))
        controls = self.control.look(kl_per_answer=drift, entropy_per_token=surprise, answers=batch.size)
        numbers = {**summary(rollouts), "kl": drift, **controls}
        paid = raw
        if s.normalise == "reward":
            self.normaliser.look(raw[ok])
            paid = self.normaliser.normal(raw)
        guess = self.engine.frozen_values(batch)
        value = self.normaliser.original(guess) * action if s.normalise == "return" else guess
        bootstrap = None
        if s.bootstrap_truncated:
            bootstrap, cut = self._expected_beyond(batch, rollouts)
            paid = paid.masked_fill(cut, 0.0)
        reward = at_last_action(paid, batch)
        if self.control.kl and s.kl_placement == "reward":
            reward = reward - self.control.kl * kl.estimate(logp, logp_ref, s.kl_estimator) * action
        advantage, returns = gae(reward, value, batch, gamma=s.gamma, lam=s.lam, bootstrap=bootstrap)
        trained = weight > 0
        numbers["explained_variance"] = explained_variance(value[trained], returns[trained])
        if s.normalise == "return":
            self.normaliser.look(returns[trained])
            returns = self.normaliser.normal(returns) * action
        if s.normalise != "none":
            numbers |= {"normaliser_mean": self.normaliser.mean, "normaliser_std": self.normaliser.std}
        filled = replace(batch, reward=raw).with_streams(
            advantage=batch_normalised(advantage, weight) if s.whiten else advantage,
            weight=weight,
            value=guess,
            logp_ref=logp_ref,
            **{"return": returns},
        )
        return filled, numbers

    def _expected_beyond(self, batch: Batch, rollouts: list[Rollout]) -> tuple[Tensor, Tensor]:
        """Float[N], the critic's value after each cut answer and 0 after others; Bool[N], which were cut."""
        cut = ~complete(rollouts)
        found = torch.zeros(batch.size)
        rows = cut.nonzero().squeeze(-1).tolist()
        if rows:
            last = self.engine.frozen_last_values(batch.select(rows))
            found[rows] = self.normaliser.original(last) if self.settings.normalise == "return" else last
        return found, cut

    def compute(self, micro: Batch) -> Outputs:
        return self.engine.logprobs_and_values(micro)

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        s = self.settings
        terms = pg.policy_gradient(
            out,
            batch,
            kl_coefficient=self.control.kl if s.kl_placement == "loss" else 0.0,
            kl_estimator=s.kl_estimator,
            entropy_coefficient=self.control.entropy,
            options={"clip_low": s.clip_low, "clip_high": s.clip_high},
        )
        return terms | value_loss(
            given(out.values), batch, clip=s.value_clip, coefficient=s.value_coefficient
        )

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "control": self.control.state(),
            "normaliser": self.normaliser.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.control.load_state(state["control"])
        self.normaliser.load_state(state["normaliser"])
