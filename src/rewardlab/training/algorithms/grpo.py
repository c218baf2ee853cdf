"""GRPO: sample a group of answers per prompt, push each towards how far it beats its group's mean.

A_i  = r_i - mean(r in group)
loss = - mean over tokens of min(ratio A, clip(ratio) A) + kl_coefficient * KL to the starting policy

Papers: GRPO arXiv 2402.03300, Dr. GRPO arXiv 2503.20783 (no std), DAPO arXiv 2503.14476 (token mean,
clip-higher). `loss` and `advantage` choose the relatives: same sampling, other formula. Answers whose
score abstained or failed, and by default those cut by the token limit, are not trained on and are
counted; a group of equal rewards gives exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Prompt, Rollout
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine, Reference
from rewardlab.objectives import kl
from rewardlab.objectives import policy_gradient as pg
from rewardlab.objectives.advantage import AdvantageName, by_name
from rewardlab.objectives.mismatch import MismatchSettings
from rewardlab.objectives.reduction import Terms
from rewardlab.records.run import StageRecord
from rewardlab.rewards.base import Reward
from rewardlab.rollout.sampler import Sampler, SamplerSettings, to_rollouts
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.probe import Probe


class GRPOSettings(Settings):
    """Knobs of the method."""

    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    updates_per_step: int = 1
    """The step's prompts are split into this many optimiser updates."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    advantage: AdvantageName = "grpo"
    pass_k: int = 4
    """The k of `advantage: pass_at_k`."""
    loss: pg.LossName = "ppo"
    loss_options: dict[str, float] = {}
    """The loss's own knobs, such as `clip_low: 0.2`; those left out have its paper's values."""
    aggregation: pg.Aggregation | None = None
    """Who is averaged with whom; None takes the loss's own. `constant` divides by max_new_tokens."""
    kl_coefficient: float = 0.02
    kl_estimator: kl.Estimator = "k3"
    kl_direction: kl.Direction = "reverse"
    kl_placement: kl.Placement = "loss"
    entropy_coefficient: float = 0.0
    mismatch: MismatchSettings | None = None
    """Correct for a sampler that disagrees with the trainer; costs one more forward pass per step."""
    train_truncated: bool = False
    """Train on answers cut by the token limit too."""


class GRPO(Algorithm):
    """Samples, scores and fills; keeps the sampling generator, which is part of the checkpoint."""

    needs = "logprobs+entropy"

    def __init__(
        self,
        engine: Engine,
        prompts: list[Prompt],
        ids: list[list[int]],
        reward: Reward,
        settings: GRPOSettings,
        *,
        seed: int,
        record: StageRecord | None = None,
        observers: tuple[Reward, ...] = (),
        probe: Probe | None = None,
    ) -> None:
        _check(settings)
        self.engine, self.prompts, self.ids = engine, prompts, ids
        self.reward, self.settings = reward, settings
        self.record, self.observers, self.probe = record, observers, probe
        self.reference = Reference(engine)
        self.rows = RowSampler(len(prompts), settings.prompts_per_step, seed)
        self.generator = torch.Generator().manual_seed(seed)
        drawn = settings.model_dump(include={"samples_per_prompt", "max_new_tokens", "temperature"})
        self.sampler = Sampler(engine, SamplerSettings(**drawn))

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.rows.indices(step)
        prompts = [self.prompts[i] for i in chosen]
        groups = self.sampler.sample([self.ids[i] for i in chosen], self.generator, version=step)
        rollouts = to_rollouts(prompts, groups, self.engine)
        scores = self.reward.score(rollouts)
        rollouts = [replace(r, score=s) for r, s in zip(rollouts, scores, strict=True)]
        batch, numbers = self.fill(rollouts)
        if self.record:
            advantage = batch.streams["advantage"][batch.offsets[1:] - 1]
            self.record.write_rollouts(step + 1, rollouts, {"advantage": advantage.tolist()})
        n, parts = self.settings.samples_per_prompt, self.settings.updates_per_step
        bounds = [round(k * len(chosen) / parts) * n for k in range(parts + 1)]
        pieces = [list(range(a, b)) for a, b in pairwise(bounds) if b > a]
        return [batch.select(p) for p in pieces], numbers

    def fill(self, rollouts: list[Rollout]) -> tuple[Batch, dict[str, float]]:
        """Rollouts with scores -> a batch with advantage, weight and logp_ref streams."""
        s = self.settings
        batch = Batch.pack([r.sequence for r in rollouts], group=[r.group for r in rollouts])
        scores = [r.score for r in rollouts]
        ok = torch.tensor([x is not None and x.status == "ok" for x in scores])
        raw = torch.tensor([x.value if x is not None and x.value is not None else 0.0 for x in scores])
        complete = torch.tensor([r.sequence.stop != "length" for r in rollouts])
        logp_ref = self.reference.logprobs(batch)
        change = (batch.streams["logp_sample"] - logp_ref) * batch.action
        reward = raw
        if s.kl_coefficient and s.kl_placement == "reward":
            per_token = kl.estimate(batch.streams["logp_sample"], logp_ref, s.kl_estimator, s.kl_direction)
            reward = raw - s.kl_coefficient * sum_by_sequence(per_token * batch.action, batch)
        action = batch.action.float()
        lengths = sum_by_sequence(action, batch)
        advantage = by_name(s.advantage, reward, batch.group, ok, lengths, k=s.pass_k)
        trained = ok if s.train_truncated else ok & complete
        filled = replace(batch, reward=raw).with_streams(
            advantage=advantage[batch.seq] * action,
            weight=trained.float()[batch.seq] * action,
            logp_ref=logp_ref,
        )
        found: dict[str, float] = {}
        if s.mismatch:
            filled, found = s.mismatch.apply(filled, given(self.engine.frozen_logprobs(batch).logp))
        return pg.prepare(filled, s.loss, self.generator, s.loss_options), {
            "reward": float(raw[ok].mean()) if bool(ok.any()) else 0.0,
            "reward_std": float(raw[ok].std()) if int(ok.sum()) > 1 else 0.0,
            "equal_groups": _equal_share(advantage, batch.group),
            "kl": float(sum_by_sequence(change, batch).mean()),
            "length": float(action.sum() / batch.size),
            "stop_rate": float(complete.float().mean()),
            "unscored": float((~ok).sum()),
            **found,
            **self._observe(rollouts),
        }

    def _observe(self, rollouts: list[Rollout]) -> dict[str, float]:
        """Other rewards on the same answers, for the record only."""
        found = {}
        for reward in self.observers:
            values = [x.value for x in reward.score(rollouts) if x.value is not None]
            if values:
                found[reward.name] = fmean(values)
        return found

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        s = self.settings
        return pg.policy_gradient(
            out,
            batch,
            loss=s.loss,
            aggregation=s.aggregation,
            constant_length=s.max_new_tokens,
            kl_coefficient=s.kl_coefficient if s.kl_placement == "loss" else 0.0,
            kl_estimator=s.kl_estimator,
            kl_direction=s.kl_direction,
            entropy_coefficient=s.entropy_coefficient,
            options=s.loss_options,
        )

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


def _check(s: GRPOSettings) -> None:
    """Refuse settings that would silently do nothing or something else."""
    pg.check_options(s.loss, s.loss_options)
    if s.kl_coefficient:
        kl.check(s.kl_estimator, s.kl_placement, s.kl_direction)
    if s.mismatch and s.loss in ("vespo", "gvpo"):
        raise UserError(f"grpo: loss {s.loss} reaches back to the sampler itself.", "Leave out `mismatch`.")
    if s.loss == "gvpo" and s.kl_coefficient and s.kl_placement == "reward":
        raise UserError("grpo: loss gvpo would ignore a KL in the reward.", "Set kl_placement: loss.")


def _equal_share(advantage: torch.Tensor, group: torch.Tensor) -> float:
    """Share of groups whose advantages are all zero: prompts that teach nothing in this step."""
    groups = group.tolist()
    alive = {g for g, a in zip(groups, advantage.tolist(), strict=True) if a != 0.0}
    return 1.0 - len(alive) / max(1, len(set(groups)))
