"""Demonstrations beside the policy's own samples: as rows of the same batch, or as hints in front of them."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import replace

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.objectives.schedule import on


def prompt_ids(demonstration: Sequence) -> list[int]:
    """The ids up to where the demonstrated answer begins."""
    return list(demonstration.ids[: demonstration.action.index(True)])


def answer_ids(demonstration: Sequence) -> list[int]:
    """The ids of the demonstrated answer, stop token included."""
    return list(demonstration.ids[demonstration.action.index(True) :])


def append(batch: Batch, demonstrations: Rows[Sequence], group: Rows[int]) -> Batch:
    """The batch with these sequences behind its own; their streams are 0, their temperature is 1."""
    if not demonstrations:
        return batch
    added = Batch.pack(demonstrations, group=group)

    def streams(name: str, x: Tensor) -> Tensor:
        rest = torch.full((len(added.ids),), 1.0 if name == "temperature" else 0.0)
        return torch.cat([x, rest.to(x)])

    return replace(
        batch,
        ids=torch.cat([batch.ids, added.ids]),
        offsets=torch.cat([batch.offsets, added.offsets[1:] + batch.offsets[-1]]),
        action=torch.cat([batch.action, added.action]),
        streams={name: streams(name, x) for name, x in batch.streams.items()},
        group=torch.cat([batch.group, added.group]),
        reward=None if batch.reward is None else torch.cat([batch.reward, torch.zeros(added.size)]),
        version=torch.cat([batch.version, added.version]),
    )


def hint_positions(batch: Batch, hints: Rows[int]) -> Tensor:
    """Bool[T]: the so many tokens before each of the first len(hints) sequences' first action."""
    found = torch.zeros_like(batch.action)
    for i, length in enumerate(hints):
        begin, end = batch.offsets[i : i + 2].tolist()
        first = begin + int(batch.action[begin:end].long().argmax())
        found[first - length : first] = True
    return found


def part(out: Outputs, batch: Batch, keep: Tensor, stream: str) -> tuple[Outputs, Batch]:
    """What a loss on a part of the actions reads: Bool[T] `keep` are the only actions, `stream` their weight.

    Log-probs elsewhere are 0, so that a ratio to a stream that is 0 there is 1 and never overflows.
    """
    logp = None if out.logp is None else torch.where(keep, out.logp, 0.0)
    return replace(out, logp=logp), on(replace(batch, action=batch.action & keep), stream)
