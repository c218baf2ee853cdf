"""The HTTP application around a reward: routes, token, limits, and one queue for all requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Reward
from rewardlab.serving.formats import (
    BadRequestError,
    NoValueError,
    OpenRlhfRequest,
    PlainRequest,
    ScoringRequest,
    openrlhf_response,
    plain_response,
    scoring_response,
)
from rewardlab.serving.settings import ServerSettings

M = TypeVar("M", bound=BaseModel)


class Batcher:
    """Scores the rollouts of concurrent requests together, in one thread, in the order they came."""

    def __init__(self, reward: Reward, settings: ServerSettings) -> None:
        self.reward, self.settings = reward, settings
        self.queue: asyncio.Queue[tuple[Sequence[Rollout], asyncio.Future[list[Score]]]]
        self.queue = asyncio.Queue(settings.queued_requests)
        self.batches = 0

    async def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores of one request; `asyncio.QueueFull` where too many wait."""
        future: asyncio.Future[list[Score]] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((rollouts, future))
        return await future

    async def work(self) -> None:
        """Take, score, hand back, for as long as the server lives."""
        pending: list[tuple[Sequence[Rollout], asyncio.Future[list[Score]]]] = []
        while True:
            taken = pending or [await self.queue.get()]
            pending = []
            size = len(taken[0][0])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.batch_wait_seconds):
                    while size < self.settings.items_per_batch and not pending:
                        following = await self.queue.get()
                        if size + len(following[0]) <= self.settings.items_per_batch:
                            taken.append(following)
                            size += len(following[0])
                        else:
                            pending = [following]
            await self._score(taken)

    async def _score(self, taken: Sequence[tuple[Sequence[Rollout], asyncio.Future[list[Score]]]]) -> None:
        rollouts = [r for asked, _ in taken for r in asked]
        self.batches += 1
        try:
            scores = await asyncio.to_thread(self.reward.score, rollouts)
            if len(scores) != len(rollouts):
                raise ValueError(f"{len(scores)} scores for {len(rollouts)} answers")
        except Exception as error:
            scores = [Score.error(f"{type(error).__name__}: {error}")] * len(rollouts)
        at = 0
        for asked, future in taken:
            if not future.done():
                future.set_result(scores[at : at + len(asked)])
            at += len(asked)


def make_app(reward: Reward, settings: ServerSettings, token: str | None = None) -> FastAPI:
    """The application; with a token every request but /health must carry `Authorization: Bearer <token>`."""
    batcher = Batcher(reward, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title=f"rewardlab: {reward.name}", lifespan=lifespan, docs_url=None, openapi_url=None)

    async def answer(request: Request, form: type[M], write: Callable[[list[Score]], Any]) -> JSONResponse:
        if not _may_enter(request, token):
            return _refuse(401, "a token is needed: `Authorization: Bearer <token>`")
        try:
            body = await _body(request, int(settings.request_mib * 2**20))
            rollouts = form.model_validate(json.loads(body)).rollouts()  # type: ignore[attr-defined]
            if len(rollouts) > settings.items_per_request:
                return _refuse(413, f"more than {settings.items_per_request} answers in one request")
            return JSONResponse(write(await batcher.score(rollouts)))
        except OverflowError as error:
            return _refuse(413, str(error))
        except ValidationError as error:
            return _refuse(422, "; ".join(map(_problem, error.errors())))
        except (BadRequestError, RecursionError) as error:
            return _refuse(422, str(error))
        except NoValueError as error:
            return _refuse(502, f"the reward has no value for {error}")
        except asyncio.QueueFull:
            return _refuse(503, "too many requests are waiting")
        except ValueError as error:
            return _refuse(400, f"the body is not JSON: {error}")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "reward": reward.name, "batches": batcher.batches}

    @app.post("/score")
    async def score(request: Request) -> JSONResponse:
        return await answer(request, PlainRequest, plain_response)

    @app.post("/get_reward")
    async def get_reward(request: Request) -> JSONResponse:
        return await answer(request, OpenRlhfRequest, lambda s: openrlhf_response(s, settings.missing))

    @app.post("/v1/score")
    async def scoring(request: Request) -> JSONResponse:
        def write(scores: list[Score]) -> dict[str, Any]:
            return scoring_response(scores, settings.missing, reward.name)

        return await answer(request, ScoringRequest, write)

    return app


def _may_enter(request: Request, token: str | None) -> bool:
    given = request.headers.get("authorization", "")
    return token is None or secrets.compare_digest(given.encode(), f"Bearer {token}".encode())


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than the limit: OverflowError."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise OverflowError(f"the body is larger than {limit} bytes")
    return data


def _problem(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else str(error["msg"])


def _refuse(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)
