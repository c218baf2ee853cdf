"""A reward by name or from a file, served until it is stopped."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from importlib.util import find_spec

from rewardlab.core.errors import UserError
from rewardlab.models.engine import EngineSettings
from rewardlab.models.loading import ModelSettings
from rewardlab.pipeline.context import BUILT_IN_REWARDS, trained_reward
from rewardlab.rewards.base import Reward
from rewardlab.rewards.catalog import Book, from_file
from rewardlab.serving.settings import ServerSettings


def find_reward(name: str) -> Reward:
    """A built-in reward, a reward model folder or id, or `file.yaml:name` of a file with `rewards:`.

    A file with one reward needs no name. Rewards there are made of each other, built-ins and model folders.
    """
    if name in BUILT_IN_REWARDS:
        return BUILT_IN_REWARDS[name]()
    if (found := from_file(name)) is None:
        return trained_reward(name, ModelSettings(path=name), EngineSettings())
    file, wanted = found
    return Book(file.rewards, find_reward, judges=file.judges).reward(wanted)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    reward: Reward, settings: ServerSettings, token: str | None, announce: Callable[[], None] | None = None
) -> None:
    """Serve until interrupted; refuses to listen beyond this machine without a token.

    `announce` is called when nothing stands against starting.
    """
    if not is_loopback(settings.host) and not token:
        raise UserError(
            f"{settings.host} can be reached from other machines, and there is no token.",
            "Set REWARDLAB_TOKEN, or listen on 127.0.0.1.",
        )
    if find_spec("uvicorn") is None or find_spec("fastapi") is None:
        raise UserError("serving needs fastapi and uvicorn.", "Install them: pip install 'rewardlab[serve]'.")
    import uvicorn

    from rewardlab.serving.app import make_app

    if announce is not None:
        announce()
    uvicorn.run(
        make_app(reward, settings, token), host=settings.host, port=settings.port, log_level="warning"
    )
