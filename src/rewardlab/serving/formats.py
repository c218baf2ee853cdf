"""The request and response forms that a reward server speaks.

/score        plain: {"prompts": [...] or "messages": [[...]], "completions": [...], "meta": [{...}]}
              -> {"scores": [{"value", "status", "parts", "reason", "uncertainty"}]}
/get_reward   OpenRLHF's remote reward: {"query": [...], "prompts": [...], "labels": [...]}
              -> {"rewards": [...]}
/v1/score     scoring as OpenAI-compatible servers have it: {"text_1": prompt(s), "text_2": completion(s)}
              -> {"object": "list", "data": [{"index", "object": "score", "score"}]}

Only the plain form can say that a reward abstained or failed. In the others such an answer makes the whole
request fail with status 502 and the reason, unless the server was told which number stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.foreign import answers_of
from rewardlab.rewards.texts import to_rollouts

Texts = Annotated[list[str], Field(min_length=1)]
Turn = dict[str, Any]


class BadRequestError(Exception):
    """What the client did wrong, for a 4xx answer."""


class NoValueError(Exception):
    """A score without a value, in a form that has only numbers."""


class PlainRequest(BaseModel):
    """Body of /score."""

    model_config = ConfigDict(extra="forbid")
    completions: Annotated[list[str | list[Turn]], Field(min_length=1)]
    prompts: list[str] | None = None
    messages: list[list[Turn]] | None = None
    meta: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> PlainRequest:
        if (self.prompts is None) == (self.messages is None):
            raise ValueError("give either `prompts` or `messages`")
        for name in ("prompts", "messages", "meta"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.completions):
                raise ValueError(f"{len(given)} {name} for {len(self.completions)} completions")
        return self

    def rollouts(self) -> list[Rollout]:
        """What is to be scored."""
        return _rollouts(self.prompts or self.messages or [], self.completions, self.meta)


class OpenRlhfRequest(BaseModel):
    """Body of /get_reward; older clients send `query` alone, which then is the answer."""

    query: Texts
    prompts: list[str] | None = None
    labels: list[Any] | None = None

    @model_validator(mode="after")
    def _fits(self) -> OpenRlhfRequest:
        for name in ("prompts", "labels"):
            given = getattr(self, name)
            if given and len(given) != len(self.query):
                raise ValueError(f"{len(given)} {name} for {len(self.query)} queries")
        return self

    def rollouts(self) -> list[Rollout]:
        """What is to be scored; the label is the meta's `answer`."""
        prompts = self.prompts or [""] * len(self.query)
        meta = [{"answer": label} for label in self.labels] if self.labels else None
        return _rollouts(prompts, answers_of(self.query, prompts), meta)


class ScoringRequest(BaseModel):
    """Body of /v1/score; one prompt may stand for all completions."""

    text_1: str | Texts
    text_2: str | Texts
    model: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ScoringRequest:
        first, second = _listed(self.text_1), _listed(self.text_2)
        if len(first) not in (1, len(second)):
            raise ValueError(f"{len(first)} text_1 for {len(second)} text_2")
        return self

    def rollouts(self) -> list[Rollout]:
        """What is to be scored."""
        prompts, completions = _listed(self.text_1), _listed(self.text_2)
        return _rollouts(prompts * (len(completions) // len(prompts)), completions, None)


def plain_response(scores: Sequence[Score]) -> dict[str, Any]:
    """Answer of /score."""
    keys = ("value", "status", "reason", "uncertainty")
    return {"scores": [{**{k: getattr(s, k) for k in keys}, "parts": dict(s.parts)} for s in scores]}


def openrlhf_response(scores: Sequence[Score], missing: float | None) -> dict[str, Any]:
    """Answer of /get_reward; `scores`, read by newer clients, are the same numbers."""
    values = numbers(scores, missing)
    return {"rewards": values, "scores": values}


def scoring_response(scores: Sequence[Score], missing: float | None, model: str) -> dict[str, Any]:
    """Answer of /v1/score."""
    data = [
        {"index": i, "object": "score", "score": value} for i, value in enumerate(numbers(scores, missing))
    ]
    return {"object": "list", "model": model, "data": data}


def numbers(scores: Sequence[Score], missing: float | None) -> list[float]:
    """The values; one that is not there is `missing`, or else a NoValueError."""
    for i, score in enumerate(scores):
        if score.value is None and missing is None:
            raise NoValueError(f"item {i}: {score.status}: {score.reason}")
    return [s.value if s.value is not None else float(missing or 0.0) for s in scores]


def _rollouts(prompts: Sequence[Any], completions: Sequence[Any], meta: Any) -> list[Rollout]:
    try:
        return to_rollouts(prompts, completions, meta)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _listed(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text
