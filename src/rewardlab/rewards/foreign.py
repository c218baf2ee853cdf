"""Reward functions written for TRL and verl, used unchanged; and our rewards as functions for TRL, verl and
OpenRLHF.

A score that abstained or failed has no number. TRL knows None for that. verl and OpenRLHF do not: there it
raises, or becomes `missing` where the caller says so; it is never silently a 0.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from rewardlab.core.types import Rollout, Score
from rewardlab.execution.functions import load_function
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.rules.function import score_of
from rewardlab.rewards.texts import Text, columns, to_rollouts


class TrlSettings(RewardSettings):
    """A TRL reward function `f(prompts, completions, **columns) -> list[float | None]`, sync or async."""

    kind: Literal["trl"] = "trl"
    function: str
    """`file.py:function`, or `package.module:function` such as `trl.rewards:think_format_reward`."""
    messages: bool = False
    """Give prompts and completions as lists of messages, as TRL does for conversational data."""

    def build(self, name: str, resolver: Resolver) -> TrlReward:
        """The reward."""
        return TrlReward(load_function(self.function), name, self)


class TrlReward(Composable):
    """A TRL function on our rollouts.

    Meta columns and `completion_ids` are passed as TRL passes them; None is an abstention; an exception is an
    error of the whole batch, since the function saw it whole.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str = "",
        settings: TrlSettings | None = None,
        *,
        messages: bool = False,
    ) -> None:
        self.function, self.settings = function, settings
        self.name = name or function.__name__
        self.messages = messages if settings is None else settings.messages

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        given: dict[str, Any] = columns([r.prompt.meta for r in rollouts])
        given["completion_ids"] = [
            [i for i, a in zip(r.sequence.ids, r.sequence.action, strict=True) if a] for r in rollouts
        ]
        given |= {"prompts": [self._prompt(r) for r in rollouts]}
        given |= {"completions": [self._completion(r) for r in rollouts]}
        try:
            said = self.function(**given)
            said = asyncio.run(_wait(said)) if inspect.isawaitable(said) else said
        except Exception as error:
            return [Score.error(f"{self.name}: {type(error).__name__}: {error}")] * len(rollouts)
        if not isinstance(said, Sequence) or len(said) != len(rollouts):
            return [Score.error(f"{self.name} did not give one reward per completion")] * len(rollouts)
        return [score_of(s, self.name) for s in said]

    def _prompt(self, rollout: Rollout) -> Text:
        said = rollout.prompt.messages
        if self.messages:
            return [{"role": m.role, "content": m.content} for m in said]
        return "\n\n".join(m.content for m in said)

    def _completion(self, rollout: Rollout) -> Text:
        return [{"role": "assistant", "content": rollout.text}] if self.messages else rollout.text


async def _wait(said: Any) -> Any:
    return await said


class VerlSettings(RewardSettings):
    """A verl function `compute_score(data_source, solution_str, ground_truth, extra_info)`."""

    kind: Literal["verl"] = "verl"
    function: str
    """`file.py:function`, or `package.module:function`."""
    data_source: str = ""
    """Given where the prompt's meta has no `data_source`."""

    def build(self, name: str, resolver: Resolver) -> VerlReward:
        """The reward."""
        return VerlReward(load_function(self.function), name, self)


class VerlReward(Composable):
    """A verl function on our rollouts.

    `ground_truth` is the meta's own, or the one in `reward_model`, as in verl's data; an exception is an
    error of that rollout. Of a dict, `score` is the value, the rest are parts.
    """

    def __init__(
        self, function: Callable[..., Any], name: str = "", settings: VerlSettings | None = None
    ) -> None:
        self.function, self.name = function, name or function.__name__
        self.settings = settings
        self.data_source = "" if settings is None else settings.data_source

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [self._score(r) for r in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        meta = rollout.prompt.meta
        nested = meta.get("reward_model")
        truth = meta.get("ground_truth", nested.get("ground_truth") if isinstance(nested, Mapping) else None)
        if truth is None:
            return Score.error(f"{rollout.prompt.place}: no 'ground_truth'".lstrip(": "))
        try:
            said = self.function(
                data_source=meta.get("data_source", self.data_source),
                solution_str=rollout.text,
                ground_truth=truth,
                extra_info=meta.get("extra_info") or {},
            )
        except Exception as error:
            return Score.error(f"{self.name}: {type(error).__name__}: {error}")
        return score_of(said, self.name)


def as_trl(reward: Reward) -> Callable[..., list[float | None]]:
    """The reward as a TRL reward function; other columns of the data become the prompt's meta.

    None, which TRL leaves out of its sum, for a score without a value. The function's name, under which TRL
    logs it, is the reward's.
    """

    def function(prompts: Sequence[Text], completions: Sequence[Text], **given: Any) -> list[float | None]:
        per_row = {k: v for k, v in given.items() if isinstance(v, list) and len(v) == len(prompts)}
        meta = [{k: v[i] for k, v in per_row.items()} for i in range(len(prompts))]
        return [s.value for s in reward.score(to_rollouts(prompts, completions, meta))]

    function.__name__ = reward.name
    return function


def as_verl(reward: Reward, missing: float | None = None) -> Callable[..., dict[str, float]]:
    """The reward as verl's `compute_score`, whose dict has `score` and the parts.

    The reward sees the prompt that `extra_info["prompt"]` has, if any, and `ground_truth`, also as `answer`.
    A score without a value raises ValueError, or is `missing`.
    """

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        info = dict(extra_info or {})
        meta = {"answer": ground_truth, **info, "ground_truth": ground_truth, "data_source": data_source}
        (score,) = reward.score(to_rollouts([info.get("prompt", "")], [solution_str], [meta]))
        return {**score.parts, "score": _number(score, missing)}

    return compute_score


def as_openrlhf(reward: Reward, missing: float | None = None) -> Callable[..., dict[str, Any]]:
    """The reward as OpenRLHF's `reward_func(queries, prompts, labels)`: `rewards`, `scores`, `extra_logs`.

    A query is the prompt with the answer behind it. The label is the meta's `answer`. A score without a
    value raises ValueError, or is `missing`.
    """

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
    ) -> dict[str, Any]:
        meta = [{"answer": label} for label in labels]
        scores = reward.score(to_rollouts(prompts, answers_of(queries, prompts), meta))
        values = torch.tensor([_number(s, missing) for s in scores])
        names = dict.fromkeys(n for s in scores for n in s.parts)
        logs = {n: torch.tensor([s.parts.get(n, float("nan")) for s in scores]) for n in names}
        return {"rewards": values, "scores": values, "extra_logs": logs}

    return reward_func


def answers_of(queries: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """What stands behind the prompt in each query; a query that does not begin with it is the answer."""
    return [q[len(p) :] if q.startswith(p) else q for q, p in zip(queries, prompts, strict=True)]


def _number(score: Score, missing: float | None) -> float:
    if score.value is not None:
        return score.value
    if missing is None:
        raise ValueError(f"no reward ({score.status}): {score.reason}")
    return missing
