"""A reward that another process serves: the client of `rewardlab serve`."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.composable import Composable

_AGAIN = (429, 500, 502, 503, 504)
"""HTTP statuses that may pass."""


class RemoteSettings(RewardSettings):
    """A reward at a URL that speaks `rewardlab serve`'s JSON."""

    kind: Literal["remote"] = "remote"
    url: str
    """Address of the server, as `http://127.0.0.1:8000`."""
    token_variable: str = "REWARDLAB_TOKEN"
    """Environment variable with the server's token; nothing is sent if it is not set."""
    seconds: float = Field(default=60.0, gt=0)
    """Time for one request."""
    retries: int = Field(default=3, ge=0)
    """Further tries after a lost connection, a time-out, or a status that may pass (429, 5xx)."""
    wait_seconds: float = Field(default=0.5, ge=0)
    """Pause before the first further try; doubled before each next."""
    answers_per_request: int = Field(default=64, ge=1)

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"{url!r} is no http(s) address")
        return url.rstrip("/")

    def build(self, name: str, resolver: Resolver) -> RemoteReward:
        """The client."""
        return RemoteReward(name, self)


class RemoteReward(Composable):
    """Asks the server; what cannot be had after all tries is an error of those rollouts, never a number."""

    settings: RemoteSettings

    def __init__(self, name: str, settings: RemoteSettings) -> None:
        self.name, self.settings = name, settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout, asked for in lots."""
        size, out = self.settings.answers_per_request, list[Score]()
        for start in range(0, len(rollouts), size):
            out += self._ask(rollouts[start : start + size])
        return out

    def _ask(self, rollouts: Sequence[Rollout]) -> list[Score]:
        body = {
            "messages": [
                [{"role": m.role, "content": m.content} for m in r.prompt.messages] for r in rollouts
            ],
            "completions": [r.text for r in rollouts],
            "meta": [dict(r.prompt.meta) for r in rollouts],
        }
        try:
            said = self._post(json.dumps(body).encode())
            scores = [_read(s) for s in said["scores"]]
            if len(scores) != len(rollouts):
                raise ValueError(f"{len(scores)} scores for {len(rollouts)} answers")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            return [Score.error(f"{self.settings.url}: {_why(error)}")] * len(rollouts)
        return scores

    def _post(self, body: bytes) -> Any:
        """The server's JSON; the last failure is raised when all tries are used up."""
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get(self.settings.token_variable):
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self.settings.url}/score", body, headers)
        for number in range(self.settings.retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.settings.seconds) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code not in _AGAIN or number == self.settings.retries:
                    raise
            except (OSError, http.client.HTTPException):
                if number == self.settings.retries:
                    raise
            time.sleep(self.settings.wait_seconds * 2**number)
        raise AssertionError("the last try returns or raises")


def _read(said: Any) -> Score:
    """A score as the server writes it; see `serving.formats`."""
    value = None if said["value"] is None else float(said["value"])
    parts = {str(k): float(v) for k, v in said.get("parts", {}).items()}
    return Score(value, said["status"], parts, said.get("reason", ""), uncertainty=said.get("uncertainty"))


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.read().decode(errors='replace')[:300]}"
    return f"{type(error).__name__}: {error}"
