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
from typing import Any

import torch

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.judges.base import Judge
from rewardlab.models.engine import Engine, Reference
from rewardlab.objectives import kl
from rewardlab.objectives import policy_gradient as pg
from rewardlab.objectives.mismatch import MismatchSettings
from rewardlab.objectives.reduction import Terms
from rewardlab.training import credit
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.control import Control, ControlSettings
from rewardlab.training.credit import Credit, CreditSettings
from rewardlab.training.experience import Experience, ExperienceSettings, raw_scores, summary, usable
from rewardlab.training.probe import Probe


class GRPOSettings(ExperienceSettings, CreditSettings, ControlSettings):
    """Knobs of the method."""

    prompts_per_step: int = 8
    updates_per_step: int = 1
    """The step's prompts are split into this many optimiser updates."""
    loss: pg.LossName = "ppo"
    loss_options: dict[str, float] = {}
    """The loss's own knobs, such as `clip_low: 0.2`; docs/objectives.md has the values of those left out."""
    aggregation: pg.Aggregation | None = None
    """Who is averaged with whom; None takes the loss's own. `constant` divides by max_new_tokens."""
    kl_estimator: kl.Estimator = "k3"
    kl_direction: kl.Direction = "reverse"
    kl_placement: kl.Placement = "loss"
    mismatch: MismatchSettings | None = None
    """Correct for a sampler that disagrees with the trainer; costs one more forward pass per step."""


class GRPO(Algorithm):
    """Fills batches from scored groups of the policy's own answers."""

    needs = "logprobs+entropy"

    def __init__(
        self,
        engine: Engine,
        experience: Experience,
        settings: GRPOSettings,
        *,
        probe: Probe | None = None,
        judge: Judge | None = None,
    ) -> None:
        _check(settings)
        if (judge is None) != (settings.judge is None):
            raise ValueError("a judge is given exactly when the settings describe one")
        self.engine, self.experience, self.settings, self.probe = engine, experience, settings, probe
        self.credit, self.control = Credit(settings, experience, judge), Control(settings)
        # Without a KL nothing reads it: neither a copy of the weights nor its pass is paid for.
        self.reference = Reference(engine) if _has_kl(settings) or settings.loss == "gvpo" else None

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        rollouts = self.experience.collect(step)
        batch, numbers = self.fill(rollouts)
        advantage = sum_by_sequence(batch.streams["advantage"], batch)
        actions = sum_by_sequence(batch.action.float(), batch).clamp(min=1)
        self.experience.write(step, rollouts, {"advantage": (advantage / actions).tolist()})
        s, n = self.settings, self.settings.samples_per_prompt
        bounds = [
            round(k * s.prompts_per_step / s.updates_per_step) * n for k in range(s.updates_per_step + 1)
        ]
        pieces = [list(range(a, b)) for a, b in pairwise(bounds) if b > a]
        return [batch.select(p) for p in pieces], numbers

    def fill(self, rollouts: list[Rollout]) -> tuple[Batch, dict[str, float]]:
        """Rollouts with scores -> a batch with advantage and weight, and logp_ref where there is a KL."""
        s = self.settings
        batch = Batch.pack([r.sequence for r in rollouts], group=[r.group for r in rollouts])
        raw, ok = raw_scores(rollouts)
        action = batch.action.float()
        drift, compared = 0.0, {}
        if self.reference is not None:
            batch = batch.with_streams(logp_ref=self.reference.logprobs(batch))
            change = (batch.streams["logp_sample"] - batch.streams["logp_ref"]) * batch.action
            drift = float(sum_by_sequence(change, batch).mean())
            compared = {"kl": drift}
        surprise = -float((batch.streams["logp_sample"] * action).sum() / action.sum().clamp(min=1))
        controls = self.control.look(kl_per_answer=drift, entropy_per_token=surprise, answers=len(rollouts))
        reward, price = raw, None
        if self.control.kl and s.kl_placement == "reward":
            cost = self._cost(batch, batch.streams["logp_sample"], batch.streams["logp_ref"])
            reward, price = raw - cost, self._price
        advantage, credited = self.credit.advantages(batch, rollouts, reward, ok, price)
        filled = replace(batch, reward=raw).with_streams(
            advantage=advantage,
            weight=usable(rollouts, s).float()[batch.seq] * action,
        )
        found: dict[str, float] = {}
        if s.mismatch:
            filled, found = s.mismatch.apply(filled, given(self.engine.frozen_logprobs(batch).logp))
        return pg.prepare(filled, s.loss, self.experience.generator, s.loss_options), {
            **summary(rollouts),
            "equal_groups": _equal_share(advantage, batch),
            **compared,
            **controls,
            **credited,
            **found,
            **self.experience.observe(rollouts),
        }

    def _cost(self, batch: Batch, logp: torch.Tensor, logp_ref: torch.Tensor) -> torch.Tensor:
        """Float[N]: the coefficient times each answer's KL."""
        per_token = kl.estimate(logp, logp_ref, self.settings.kl_estimator, self.settings.kl_direction)
        return self.control.kl * sum_by_sequence(per_token * batch.action, batch)

    def _price(self, rollouts: list[Rollout]) -> torch.Tensor:
        """What the KL costs answers that were not sampled, at the temperature of those that were."""
        at = self.settings.temperature
        batch = Batch.pack([replace(r.sequence, temperature=at) for r in rollouts])
        logp = given(self.engine.frozen_logprobs(batch).logp)
        if self.reference is None:
            raise ValueError("a KL has a price only where there is a reference")
        return self._cost(batch, logp, self.reference.logprobs(batch))

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        s = self.settings
        return pg.policy_gradient(
            out,
            batch,
            loss=s.loss,
            aggregation=s.aggregation,
            constant_length=s.max_new_tokens,
            kl_coefficient=self.control.kl if s.kl_placement == "loss" else 0.0,
            kl_estimator=s.kl_estimator,
            kl_direction=s.kl_direction,
            entropy_coefficient=self.control.entropy,
            options=s.loss_options,
        )

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return self.experience.state() | {"credit": self.credit.state(), "control": self.control.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.experience.load_state(state)
        self.credit.load_state(state["credit"])
        self.control.load_state(state["control"])


def _has_kl(s: GRPOSettings) -> bool:
    return s.kl_coefficient > 0 or s.kl_control != "fixed"


def _check(s: GRPOSettings) -> None:
    """Refuse settings that would silently do nothing or something else."""
    pg.check_options(s.loss, s.loss_options)
    has_kl = _has_kl(s)
    credit.check(s, s.prompts_per_step, has_kl and s.kl_placement == "reward")
    if s.loss == "gvpo" and s.advantage != "grpo":
        raise UserError("grpo: loss gvpo reads rewards, not advantages.", "Leave out `advantage`.")
    if s.advantage == "process" and s.loss in ("gspo", "luspo", "gmpo"):
        raise UserError(
            f"grpo: loss {s.loss} has one ratio per answer, and process one advantage per token.",
            "Take loss gspo_token, or a loss per token.",
        )
    if has_kl:
        kl.check(s.kl_estimator, s.kl_placement, s.kl_direction)
    if s.mismatch and s.loss in ("vespo", "gvpo"):
        raise UserError(f"grpo: loss {s.loss} reaches back to the sampler itself.", "Leave out `mismatch`.")
    if s.loss == "gvpo" and has_kl and s.kl_placement == "reward":
        raise UserError("grpo: loss gvpo would ignore a KL in the reward.", "Set kl_placement: loss.")


def _equal_share(advantage: torch.Tensor, batch: Batch) -> float:
    """Share of groups whose advantages are all zero: prompts that teach nothing in this step."""
    alive = set(batch.group[batch.seq[advantage != 0]].tolist())
    return 1.0 - len(alive) / max(1, len(set(batch.group.tolist())))
