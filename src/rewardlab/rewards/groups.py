"""Which rollouts answer the same prompt instance."""

from __future__ import annotations

from collections.abc import Sequence

from rewardlab.core.types import Rollout


def by_group(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Indices of each group's rollouts, in order of first appearance.

    A group is one `group` number and one prompt, so that answers to different prompts never compete.
    """
    found: dict[object, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        found.setdefault((rollout.group, rollout.prompt.id, rollout.prompt.messages), []).append(index)
    return list(found.values())
