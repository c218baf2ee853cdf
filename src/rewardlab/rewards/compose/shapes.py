"""One reward, reshaped: clipped, squashed, held against a baseline, flipped at random."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.compose.combining import logged, settle

Shape = Callable[[float, Rollout], float]


class Shaped(Composable):
    """f(value, rollout) of one reward; the value before is logged under that reward's name."""

    def __init__(self, name: str, of: tuple[str, Reward], shape: Shape, settings: RewardSettings) -> None:
        self.name, self.shape, self.settings = name, shape, settings
        self.parts = dict([of])

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        ((name, inner),) = self.parts.items()
        pairs = zip(inner.score(rollouts), rollouts, strict=True)
        return [self._one(name, score, rollout) for score, rollout in pairs]

    def _one(self, name: str, score: Score, rollout: Rollout) -> Score:
        return settle({name: score}, lambda v: self.shape(v[name], rollout))


class _OfOne(RewardSettings):
    of: str
    """Name of the reward."""

    def references(self) -> list[str]:
        """The reward that is reshaped."""
        return [self.of]


class ClipSettings(_OfOne):
    """value clipped to mean +/- deviations * sd, so that one outlier cannot rule a group."""

    kind: Literal["clip"] = "clip"
    deviations: float = Field(default=3.0, gt=0)
    mean: float = 0.0
    """Mean of the reward on answers of the starting policy, as `calibrate` measures it."""
    sd: float = Field(default=1.0, gt=0)
    """Deviation of the same."""

    def build(self, name: str, resolver: Resolver) -> Shaped:
        """The clipped reward."""
        low, high = self.mean - self.deviations * self.sd, self.mean + self.deviations * self.sd
        return Shaped(name, (self.of, resolver.reward(self.of)), lambda v, _: min(max(v, low), high), self)


class SquashSettings(_OfOne):
    """value = tanh((value - centre) / scale), or the logistic function of the same."""

    kind: Literal["squash"] = "squash"
    function: Literal["tanh", "sigmoid"] = "tanh"
    centre: float = 0.0
    scale: float = Field(default=1.0, gt=0)

    def build(self, name: str, resolver: Resolver) -> Shaped:
        """The squashed reward."""

        def squash(value: float, _: Rollout) -> float:
            x = (value - self.centre) / self.scale
            return math.tanh(x) if self.function == "tanh" else 0.5 * (1 + math.tanh(x / 2))

        return Shaped(name, (self.of, resolver.reward(self.of)), squash, self)


class FlipSettings(_OfOne):
    """With probability `rate`, 2 * centre - value: label noise for experiments.

    Whether an answer is flipped is a fixed function of the seed, the prompt and the answer, so the same
    answer is always wrong in the same way, as with a learned reward.
    """

    kind: Literal["flip"] = "flip"
    rate: float = Field(ge=0, le=1)
    centre: float = 0.5
    """Reflection point; 0.5 exchanges 0 and 1, 0 changes the sign."""
    seed: int = 0

    def build(self, name: str, resolver: Resolver) -> Shaped:
        """The noisy reward."""

        def flip(value: float, rollout: Rollout) -> float:
            return 2 * self.centre - value if uniform(self.seed, rollout) < self.rate else value

        return Shaped(name, (self.of, resolver.reward(self.of)), flip, self)


def uniform(seed: int, rollout: Rollout) -> float:
    """A number in [0, 1) that depends on seed, prompt and answer text alone."""
    said = [[m.role, m.content] for m in rollout.prompt.messages]
    key = json.dumps([seed, said, rollout.text])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") / 2**56


class BaselineSettings(_OfOne):
    """value = r(answer) - mean over the baseline policy's answers b to the same prompt of r(b).

    Takes out how easy the prompt is. The baseline's answers come with the data, sampled beforehand.
    """

    kind: Literal["baseline"] = "baseline"
    field: str = "baseline"
    """Key of the prompt's meta with the baseline policy's answer or a list of them; a number is taken as
    its score."""

    def build(self, name: str, resolver: Resolver) -> Baseline:
        """The calibrated reward."""
        return Baseline(name, resolver.reward(self.of), self)


class Baseline(Composable):
    """A reward minus what the baseline policy gets on the same prompt, which is scored once per prompt."""

    settings: BaselineSettings

    def __init__(self, name: str, inner: Reward, settings: BaselineSettings) -> None:
        self.name, self.settings, self.parts = name, settings, {settings.of: inner}
        self._known: dict[str, float] = {}

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a prompt whose baseline has no score is an error."""
        of, field = self.settings.of, self.settings.field
        failed = self._learn(rollouts)
        out = []
        for rollout, score in zip(rollouts, self.parts[of].score(rollouts), strict=True):
            key = _key(rollout, field)
            if key in failed:
                parts = logged({of: score})
                out.append(Score(None, "error", parts, f"{rollout.prompt.place}: {failed[key]}"))
            else:
                named = {of: score, f"{of}/baseline": Score(self._known[key])}
                out.append(settle(named, lambda v: v[of] - v[f"{of}/baseline"]))
        return out

    def _learn(self, rollouts: Sequence[Rollout]) -> dict[str, str]:
        """Score the baseline answers of new prompts in one batch; which prompts have no score, and why."""
        queue: list[Rollout] = []
        spans: dict[str, slice] = {}
        failed: dict[str, str] = {}
        for rollout in rollouts:
            key, given = _key(rollout, self.settings.field), rollout.prompt.meta.get(self.settings.field)
            if key in self._known or key in spans:
                continue
            answers = [given] if isinstance(given, str) else given
            if isinstance(given, int | float) and not isinstance(given, bool):
                self._known[key] = float(given)
            elif isinstance(answers, list) and answers and all(isinstance(a, str) for a in answers):
                spans[key] = slice(len(queue), len(queue) + len(answers))
                bare = replace(rollout.sequence, ids=(0,), action=(False,), logp=None, stop="data")
                queue += [Rollout(rollout.prompt, bare, a, rollout.group) for a in answers]
            else:
                failed[key] = f"no baseline answer in {self.settings.field!r}"
        scores = self.parts[self.settings.of].score(queue) if queue else []
        for key, span in spans.items():
            values = [s.value for s in scores[span] if s.value is not None]
            if len(values) == len(scores[span]):
                self._known[key] = fmean(values)
            else:
                failed[key] = "baseline: " + next(s.reason for s in scores[span] if s.value is None)
        return failed


def _key(rollout: Rollout, field: str) -> str:
    said = [[m.role, m.content] for m in rollout.prompt.messages]
    return json.dumps([said, rollout.prompt.meta.get(field)], default=str)
