"""Pairs of the policy's own answers, kept over rounds; part of the checkpoint, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.types import Sequence
from rewardlab.training.pairs import PairRow


@dataclass(frozen=True)
class Kept:
    """A pair in the buffer."""

    row: PairRow
    round: int
    """The round that it was sampled in; the optimiser step is its sequences' `version`."""
    logp_ref: Tensor | None = None
    """Float[tokens of chosen, then of rejected]; None where the loss needs no reference."""


def keep(pairs: list[Kept], policy: str, round_: int) -> list[Kept]:
    """What stays at the start of a round, before its own pairs come.

    `full` keeps all, `current` nothing, `rolling:k` those of the last k rounds, this one among them.
    """
    if policy == "full":
        return pairs
    rounds = 1 if policy == "current" else int(policy.removeprefix("rolling:"))
    return [p for p in pairs if round_ - p.round < rounds]


def to_state(pairs: list[Kept]) -> dict[str, Any]:
    """Pairs of sampled answers with hard labels, as flat tensors."""
    sequences = [s for p in pairs for s in (p.row.chosen, p.row.rejected)]
    references = [p.logp_ref for p in pairs if p.logp_ref is not None]
    return {
        "lengths": torch.tensor([len(s) for s in sequences], dtype=torch.long),
        "ids": torch.tensor([i for s in sequences for i in s.ids], dtype=torch.long),
        "action": torch.tensor([a for s in sequences for a in s.action], dtype=torch.bool),
        "logp": torch.tensor([x for s in sequences for x in s.logp or ()], dtype=torch.float64),
        "temperature": [s.temperature for s in sequences],
        "version": [s.version for s in sequences],
        "stop": [s.stop for s in sequences],
        "round": [p.round for p in pairs],
        "logp_ref": torch.cat(references) if references else None,
    }


def from_state(state: dict[str, Any]) -> list[Kept]:
    """The pairs that `to_state` was given."""
    lengths = state["lengths"].tolist()
    columns = [state[name].split(lengths) for name in ("ids", "action", "logp")] if lengths else [(), (), ()]
    sequences = [
        Sequence(tuple(i.tolist()), tuple(a.tolist()), tuple(p.tolist()), temperature, version, stop)
        for i, a, p, temperature, version, stop in zip(
            *columns, state["temperature"], state["version"], state["stop"], strict=True
        )
    ]
    rows = [PairRow(a, b) for a, b in zip(sequences[::2], sequences[1::2], strict=True)]
    sizes = [a + b for a, b in zip(lengths[::2], lengths[1::2], strict=True)]
    flat = state["logp_ref"]
    references = [None] * len(rows) if flat is None else flat.split(sizes)
    return [Kept(*found) for found in zip(rows, state["round"], references, strict=True)]
