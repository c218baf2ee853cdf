"""The policy's own answers as training data: sample, score, record, observe.

Every algorithm that learns from its own samples takes them from one `Experience`, so that they all draw,
score, count and record alike; what they do with the answers is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from pydantic import Field

from rewardlab.core.settings import Settings
from rewardlab.core.types import Prompt, Rollout
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.records.run import StageRecord
from rewardlab.rewards.base import Reward
from rewardlab.rollout.sampler import Sampler, drawing, to_rollouts


class ExperienceSettings(Settings):
    """How answers to train on are drawn, and which of them may be trained on."""

    samples_per_prompt: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Also the temperature that log-probs of these answers are computed at in training."""
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""
    train_truncated: bool = False
    """Train on answers cut by the token limit too."""


class Experience:
    """Draws the prompts of a step in shuffled order, answers them, scores the answers.

    Keeps the sampling generator, which is part of the checkpoint. Without a reward the rollouts have no
    score. Observers score the same answers for the record only.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: list[Prompt],
        ids: list[list[int]],
        reward: Reward | None,
        settings: ExperienceSettings,
        *,
        prompts_at_once: int,
        seed: int,
        record: StageRecord | None = None,
        observers: tuple[Reward, ...] = (),
    ) -> None:
        self.engine, self.prompts, self.ids = engine, prompts, ids
        self.reward, self.settings, self.seed = reward, settings, seed
        self.record, self.observers = record, observers
        self.rows = RowSampler(len(prompts), prompts_at_once, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = Sampler(engine, drawing(settings))

    def collect(
        self, number: int, *, version: int | None = None, hints: Rows[Rows[int]] = ()
    ) -> list[Rollout]:
        """Scored answers to the `number`-th (0-based) lot of prompts, group after group.

        `version` is the optimiser step that they are sampled at, where that is not `number`. `hints`, one per
        answer where any is given: ids that the answer continues. They open its text, which the reward reads;
        the policy did not choose them, so they are no actions.
        """
        chosen = self.rows.indices(number)
        version = number if version is None else version
        asked = [self.prompts[i] for i in chosen]
        if any(hints):
            rollouts = self._continue(chosen, asked, hints, version)
        else:
            groups = self.sampler.sample([self.ids[i] for i in chosen], self.generator, version=version)
            rollouts = to_rollouts(asked, groups, self.engine)
        if self.reward is None:
            return rollouts
        scores = self.reward.score(rollouts)
        return [replace(r, score=s) for r, s in zip(rollouts, scores, strict=True)]

    def _continue(
        self, chosen: list[int], asked: list[Prompt], hints: Rows[Rows[int]], version: int
    ) -> list[Rollout]:
        """Answers that begin with their hints; the draws are those of answers without."""
        n = self.settings.samples_per_prompt
        begun = [[*self.ids[i], *hints[k * n + j]] for k, i in enumerate(chosen) for j in range(n)]
        sampler = Sampler(self.engine, self.sampler.settings.model_copy(update={"samples_per_prompt": 1}))
        drawn = [one for (one,) in sampler.sample(begun, self.generator, version=version)]
        groups = [drawn[k * n : (k + 1) * n] for k in range(len(chosen))]
        decode = self.engine.model.tokenizer.decode
        found = []
        for r, hint in zip(to_rollouts(asked, groups, self.engine), hints, strict=True):
            answer = [i for i, a in zip(r.sequence.ids, r.sequence.action, strict=True) if a]
            found.append(replace(r, text=decode([*hint, *answer], skip_special_tokens=True)))
        return found

    def greedy(self, rollouts: list[Rollout]) -> dict[int, Rollout]:
        """The most likely answer to each group's prompt, scored; no draw is spent on it."""
        first = {r.group: r for r in reversed(rollouts)}
        groups = sorted(first)
        prompts = [first[g].sequence for g in groups]
        knobs = self.sampler.settings.model_copy(update={"samples_per_prompt": 1, "temperature": 0.0})
        found = Sampler(self.engine, knobs).sample(
            [list(s.ids[: s.action.index(True)]) for s in prompts],
            torch.Generator().manual_seed(self.seed),
            version=prompts[0].version,
        )
        answers = to_rollouts([first[g].prompt for g in groups], found, self.engine)
        scores = self.reward.score(answers) if self.reward is not None else [None] * len(answers)
        return {g: replace(r, group=g, score=x) for g, r, x in zip(groups, answers, scores, strict=True)}

    def write(self, step: int, rollouts: list[Rollout], columns: Mapping[str, Rows[float]]) -> None:
        """Record the rollouts of a 0-based step, if there is a record."""
        if self.record:
            self.record.write_rollouts(step + 1, rollouts, columns)

    def observe(self, rollouts: list[Rollout]) -> dict[str, float]:
        """Means of the observers' scores of these answers."""
        found = {}
        for reward in self.observers:
            values = [x.value for x in reward.score(rollouts) if x.value is not None]
            if values:
                found[reward.name] = fmean(values)
        return found

    def state(self) -> dict[str, Any]:
        """The generator; the prompts of a step are a function of its number."""
        return {"generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state()` gave."""
        self.generator.set_state(state["generator"])


def raw_scores(rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values Float[N], 0 where there is none, and Bool[N] whether there is one."""
    scores = [r.score for r in rollouts]
    ok = torch.tensor([x is not None and x.status == "ok" for x in scores])
    raw = torch.tensor([x.value if x is not None and x.value is not None else 0.0 for x in scores])
    return raw, ok


def usable(rollouts: list[Rollout], settings: ExperienceSettings) -> torch.Tensor:
    """Bool[N]: the answer has a score and, unless `train_truncated`, was not cut by the token limit."""
    ok = raw_scores(rollouts)[1]
    return ok if settings.train_truncated else ok & complete(rollouts)


def complete(rollouts: list[Rollout]) -> torch.Tensor:
    """Bool[N]: not cut by the token limit."""
    return torch.tensor([r.sequence.stop != "length" for r in rollouts])


def summary(rollouts: list[Rollout], *, scored: bool = True) -> dict[str, float]:
    """What is logged of every lot of answers: reward (mean and deviation), length, stop rate, failures."""
    actions = torch.tensor([float(r.sequence.actions) for r in rollouts])
    found = {
        "length": float(actions.sum() / len(rollouts)),
        "stop_rate": float(complete(rollouts).float().mean()),
    }
    if scored:
        raw, ok = raw_scores(rollouts)
        found |= {
            "reward": float(raw[ok].mean()) if bool(ok.any()) else 0.0,
            "reward_std": float(raw[ok].std()) if int(ok.sum()) > 1 else 0.0,
            "unscored": float((~ok).sum()),
        }
    return found
