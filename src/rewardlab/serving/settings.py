"""How a reward is served."""

from __future__ import annotations

from pydantic import Field

from rewardlab.core.settings import Settings


class ServerSettings(Settings):
    """How a reward is served."""

    host: str = "127.0.0.1"
    """Any address but loopback needs a token."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    request_mib: float = Field(default=16.0, gt=0)
    """Largest body of a request."""
    items_per_request: int = Field(default=1024, ge=1)
    """Most answers in one request."""
    items_per_batch: int = Field(default=64, ge=1)
    """Answers that are scored together, from one request or several; a larger request goes alone."""
    batch_wait_seconds: float = Field(default=0.005, ge=0)
    """How long a batch waits for further requests."""
    queued_requests: int = Field(default=256, ge=1)
    """More are turned away with status 503."""
    missing: float | None = None
    """The number that /get_reward and /v1/score give where there is no value; left out, they fail."""
