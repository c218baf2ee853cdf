"""Which advantage each answer of a step gets, by name, and what some of them carry from step to step.

Outcome advantages are pure functions of rewards and groups (`objectives.advantage`). Four need more:
gdpo reads each score's named parts, pairwise compares answers within their group, remax draws one greedy
answer per prompt, riskpo bundles prompts and tracks two quantiles, which are part of the checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Rollout
from rewardlab.objectives.advantage import (
    AdvantageName,
    Quantiles,
    bundle_scores,
    by_name,
    gdpo,
    pairwise,
    remax,
    riskpo,
)
from rewardlab.training.experience import Experience, raw_scores


class CreditSettings(Settings):
    """From scores to advantages."""

    advantage: AdvantageName | Literal["gdpo", "pairwise", "remax", "riskpo"] = "grpo"
    pass_k: int = 4
    """The k of `advantage: pass_at_k`."""
    part_weights: dict[str, float] = {}
    """advantage gdpo: the named parts of the score and how much each counts."""
    questions_per_bundle: int = Field(default=5, ge=1)
    """advantage riskpo: so many prompts make a bundle; it must divide prompts_per_step."""
    tail_weight: float = Field(default=1.5, ge=0)
    """advantage riskpo: how much more the worst bundles count."""


class Credit:
    """Advantages of a step's answers; keeps RiskPO's quantiles."""

    def __init__(self, settings: CreditSettings, experience: Experience) -> None:
        self.settings, self.experience = settings, experience
        self.quantiles: Quantiles | None = None

    def advantages(
        self, rollouts: list[Rollout], reward: Tensor, ok: Tensor, group: Tensor, lengths: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Float[N] and numbers to log; `reward` Float[N] has a KL in the reward subtracted already."""
        s = self.settings
        if s.advantage == "gdpo":
            return gdpo(self._parts(rollouts), torch.tensor([*s.part_weights.values()]), group, ok), {}
        if s.advantage == "pairwise":
            found = torch.zeros_like(reward)
            for g in group.unique():  # type: ignore[no-untyped-call]
                at = group == g
                found[at] = pairwise(reward[at][:, None] - reward[at][None, :], ok[at])
            return found, {}
        if s.advantage == "remax":
            return self._remax(rollouts, reward, ok)
        if s.advantage == "riskpo":
            return self._riskpo(reward, ok, group)
        return by_name(s.advantage, reward, group, ok, lengths, k=s.pass_k), {}

    def _parts(self, rollouts: list[Rollout]) -> Tensor:
        """Float[K, N]: the weighed parts; NaN where an answer's score lacks one."""
        names = list(self.settings.part_weights)
        parts = [r.score.parts if r.score is not None else {} for r in rollouts]
        known = sorted({name for p in parts for name in p})
        if known and (unknown := sorted(set(names) - set(known))):
            raise UserError(
                f"advantage gdpo: no score has a part {', '.join(unknown)}.", f"Parts: {', '.join(known)}."
            )
        return torch.tensor([[p.get(name, torch.nan) for p in parts] for name in names])

    def _remax(self, rollouts: list[Rollout], reward: Tensor, ok: Tensor) -> tuple[Tensor, dict[str, float]]:
        greedy = self.experience.greedy(rollouts)
        raw, scored = raw_scores(list(greedy.values()))
        place = torch.tensor([list(greedy).index(r.group) for r in rollouts])
        numbers = {
            "greedy_reward": float(raw[scored].mean()) if bool(scored.any()) else 0.0,
            "greedy_tokens": float(sum(r.sequence.actions for r in greedy.values())),
        }
        return remax(reward, raw[place], ok & scored[place]), numbers

    def _riskpo(self, reward: Tensor, ok: Tensor, group: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Bundles with an unscored answer have no sum: they get 0 and are counted."""
        s = self.settings
        score, paper = bundle_scores(reward, group, questions=s.questions_per_bundle)
        papers = int((group == group[0]).sum())
        bundle = paper // papers
        whole = torch.ones(len(score) // papers, dtype=torch.bool)
        whole[bundle[~ok]] = False
        found = torch.zeros_like(reward)
        keep = whole[bundle]
        if bool(keep.any()):
            sound = score[whole.repeat_interleave(papers)]
            q = self.quantiles or _first(sound)
            found[keep] = riskpo(
                reward[keep], group[keep], q, questions=s.questions_per_bundle, tail_weight=s.tail_weight
            )
            self.quantiles = q.tracked(sound)
        numbers = {"bundles_left_out": float((~whole).sum())}
        if self.quantiles is not None:
            numbers |= {"quantile_low": self.quantiles.low, "quantile_high": self.quantiles.high}
        return found, numbers

    def state(self) -> dict[str, Any]:
        """RiskPO's quantiles, where there are any."""
        return {} if self.quantiles is None else {"quantiles": asdict(self.quantiles)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state()` gave."""
        self.quantiles = Quantiles(**state["quantiles"]) if "quantiles" in state else None


def check(s: CreditSettings, prompts_per_step: int, kl_in_reward: bool) -> None:
    """Refuse settings that cannot work or would silently do nothing."""
    if (s.advantage == "gdpo") != bool(s.part_weights):
        raise UserError(
            f"advantage {s.advantage}: part_weights are {s.part_weights}.",
            "`advantage: gdpo` needs the parts to add, and no other advantage reads them.",
        )
    if s.advantage == "gdpo" and kl_in_reward:
        raise UserError("advantage gdpo would ignore a KL in the reward.", "Set kl_placement: loss.")
    if s.advantage == "riskpo" and prompts_per_step % s.questions_per_bundle:
        raise UserError(
            f"advantage riskpo: {prompts_per_step} prompts a step do not make bundles of "
            f"{s.questions_per_bundle}.",
            "Let questions_per_bundle divide prompts_per_step.",
        )


def _first(score: Tensor) -> Quantiles:
    """The first step's own quantiles, where tracking starts."""
    empty = Quantiles(0.0, 0.0)
    low, high = score.quantile(torch.tensor([empty.alpha_low, empty.alpha_high])).tolist()
    return Quantiles(low, high)
