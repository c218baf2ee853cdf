"""Many answers through a reward, with progress and with failures counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Reward
from rewardlab.rewards.linear_head import Floats

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

CHUNK = 512


def score_values(context: Context, reward: Reward, rollouts: Sequence[Rollout], label: str) -> Floats:
    """Float[N], nan where the reward has no value; these are told as a warning with the first reason."""
    scores = []
    with context.progress.task(label, len(rollouts)) as task:
        for begin in range(0, len(rollouts), CHUNK):
            chunk = rollouts[begin : begin + CHUNK]
            scores += reward.score(chunk)
            task.advance(len(chunk))
    failed = [s.reason for s in scores if s.value is None]
    if failed:
        context.warnings.append(
            f"{label}: {len(failed)} of {len(scores)} answers have no score ({failed[0]})."
        )
    return np.array([np.nan if s.value is None else s.value for s in scores])
