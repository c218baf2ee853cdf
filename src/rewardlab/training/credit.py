"""Which advantage each action of a step gets, by name, and what some of them carry from step to step.

Outcome advantages are pure functions of rewards and groups (`objectives.advantage`). Five need more:
gdpo reads each score's named parts, process its values per token, pairwise compares answers within their
group, remax draws one greedy answer per prompt, riskpo bundles prompts and tracks two quantiles, which are
part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rewardlab.core.batch import Batch, sum_by_sequence
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Rollout
from rewardlab.judges.base import Judge
from rewardlab.objectives.advantage import (
    AdvantageName,
    Quantiles,
    bundle_scores,
    by_name,
    gdpo,
    pairwise,
    process,
    remax,
    riskpo,
)
from rewardlab.training.experience import Experience, raw_scores
from rewardlab.training.judged import JudgeSettings, wins

Advantage = AdvantageName | Literal["gdpo", "process", "pairwise", "remax", "riskpo"]
Price = Callable[[list[Rollout]], Tensor]
"""What is subtracted from the reward of each of these answers for its KL, Float[N]."""


class CreditSettings(Settings):
    """From scores to advantages."""

    advantage: Advantage = "grpo"
    """process reads the score's values per token: rewards that know the answer's own ids have them."""
    pass_k: int = 4
    """The k of `advantage: pass_at_k`."""
    part_weights: dict[str, float] = {}
    """advantage gdpo: the named parts of the score and how much each counts. An answer whose score lacks a
    part has no signal from it."""
    judge: JudgeSettings | None = None
    """advantage pairwise: who compares the answers; null takes differences of their scores."""
    questions_per_bundle: int = Field(default=5, ge=1)
    """advantage riskpo: so many prompts make a bundle; it must divide prompts_per_step."""
    tail_weight: float = Field(default=1.5, ge=0)
    """advantage riskpo: how much more the worst bundles count."""


class Credit:
    """Advantages of a step's answers; keeps RiskPO's quantiles, and whether the scores held what is read."""

    def __init__(self, settings: CreditSettings, experience: Experience, judge: Judge | None = None) -> None:
        self.settings, self.experience, self.judge = settings, experience, judge
        self.quantiles: Quantiles | None = None
        self.looked = False

    def advantages(
        self, batch: Batch, rollouts: list[Rollout], reward: Tensor, ok: Tensor, price: Price | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Float[T], 0 outside actions, and numbers to log.

        `reward` Float[N] has a KL in the reward subtracted already; `price` says what it costs other answers.
        """
        if self.settings.advantage == "process":
            return self._process(batch, rollouts, ok)
        action = batch.action.float()
        found, numbers = self._outcome(
            rollouts, reward, ok, batch.group, sum_by_sequence(action, batch), price
        )
        return found[batch.seq] * action, numbers

    def _outcome(
        self,
        rollouts: list[Rollout],
        reward: Tensor,
        ok: Tensor,
        group: Tensor,
        lengths: Tensor,
        price: Price | None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Float[N], one advantage for all actions of an answer."""
        s = self.settings
        if s.advantage == "gdpo":
            parts = self._parts(rollouts, ok)
            numbers = {"missing_parts": float((parts.isnan() & ok).sum())}
            return gdpo(parts, torch.tensor([*s.part_weights.values()]), group, ok), numbers
        if s.advantage == "pairwise":
            return self._pairwise(rollouts, reward, ok, group)
        if s.advantage == "remax":
            return self._remax(rollouts, reward, ok, price)
        if s.advantage == "riskpo":
            return self._riskpo(reward, ok, group)
        if s.advantage == "process":
            raise ValueError("process gives each action an advantage of its own")
        return by_name(s.advantage, reward, group, ok, lengths, k=s.pass_k), {}

    def _parts(self, rollouts: list[Rollout], ok: Tensor) -> Tensor:
        """Float[K, N]: the weighed parts; NaN where an answer's score lacks one.

        A name that no score of the first scored step has is an error: a part may be rare, a typo is always.
        """
        names = list(self.settings.part_weights)
        parts = [r.score.parts if r.score is not None else {} for r in rollouts]
        if not self.looked and bool(ok.any()):
            self.looked = True
            known = sorted({name for p in parts for name in p})
            if unknown := sorted(set(names) - set(known)):
                raise UserError(
                    f"advantage gdpo: no score has a part {', '.join(unknown)}.",
                    f"Parts: {', '.join(known)}." if known else "Take a reward whose scores have parts.",
                )
        return torch.tensor([[p.get(name, torch.nan) for p in parts] for name in names])

    def _process(self, batch: Batch, rollouts: list[Rollout], ok: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Step rewards from `Score.tokens`; answers without any get 0 and are counted."""
        tokens = [None if r.score is None else r.score.tokens for r in rollouts]
        has = torch.tensor([t is not None for t in tokens])
        if not self.looked and bool(ok.any()):
            self.looked = True
            if not bool((ok & has).any()):
                why = next((r.score.reason for r in rollouts if r.score and r.score.reason), "")
                raise UserError(
                    f"advantage process: no score has values per token{f' ({why})' if why else ''}.",
                    "Use a process reward trained from the policy's own model, or another advantage.",
                )
        flat = [v for r, t in zip(rollouts, tokens, strict=True) for v in t or (None,) * len(r.sequence)]
        ends = torch.tensor([v is not None for v in flat]) & batch.action
        values = torch.tensor([0.0 if v is None else v for v in flat])
        return process(values, ends, batch, ok & has) * batch.action, {
            "without_token_values": float((ok & ~has).sum()),
            "steps_per_answer": float(ends.sum() / max(1, int(has.sum()))),
        }

    def _pairwise(
        self, rollouts: list[Rollout], reward: Tensor, ok: Tensor, group: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        beats, numbers = reward[:, None] - reward[None, :], {}
        if self.judge is not None:
            beats, judged, missing = wins(self.judge, rollouts, group, ok)
            ok, numbers = ok & judged, {"unjudged_pairs": float(missing)}
        found = torch.zeros_like(reward)
        for g in group.unique():  # type: ignore[no-untyped-call]
            at = group == g
            found[at] = pairwise(beats[at][:, at], ok[at])
        return found, numbers

    def _remax(
        self, rollouts: list[Rollout], reward: Tensor, ok: Tensor, price: Price | None
    ) -> tuple[Tensor, dict[str, float]]:
        """The greedy answer pays for its KL as the sampled ones do."""
        greedy = self.experience.greedy(rollouts)
        answers = list(greedy.values())
        raw, scored = raw_scores(answers)
        baseline = raw if price is None else raw - price(answers)
        place = torch.tensor([list(greedy).index(r.group) for r in rollouts])
        numbers = {
            "greedy_reward": float(raw[scored].mean()) if bool(scored.any()) else 0.0,
            "greedy_tokens": float(sum(r.sequence.actions for r in greedy.values())),
        }
        return remax(reward, baseline[place], ok & scored[place]), numbers

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
        """RiskPO's quantiles, where there are any, and whether the scores were looked at."""
        found: dict[str, Any] = {"looked": self.looked}
        return found if self.quantiles is None else found | {"quantiles": asdict(self.quantiles)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state()` gave."""
        self.looked = state["looked"]
        self.quantiles = Quantiles(**state["quantiles"]) if "quantiles" in state else None


def check(s: CreditSettings, prompts_per_step: int, kl_in_reward: bool) -> None:
    """Refuse settings that cannot work or would silently do nothing."""
    if (s.advantage == "gdpo") != bool(s.part_weights):
        raise UserError(
            f"advantage {s.advantage}: part_weights are {s.part_weights}.",
            "`advantage: gdpo` needs the parts to add, and no other advantage reads them.",
        )
    if s.judge is not None and s.advantage != "pairwise":
        raise UserError(f"advantage {s.advantage}: it asks no judge.", "Set `advantage: pairwise`.")
    if kl_in_reward and (s.advantage in ("gdpo", "process") or s.judge is not None):
        raise UserError(
            f"advantage {s.advantage}{' by a judge' if s.judge else ''} would ignore a KL in the reward.",
            "Set kl_placement: loss.",
        )
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
