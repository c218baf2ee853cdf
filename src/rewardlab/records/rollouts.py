"""Rollouts as Parquet: everything a later question may need, ids first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence


def to_table(rows: Rows[Rollout], columns: Mapping[str, Rows[float]]) -> pa.Table:
    """One row per rollout; reward parts become columns `part.<name>`."""
    parts = dict.fromkeys(name for r in rows if r.score for name in r.score.parts)
    table: dict[str, list[Any]] = {
        "prompt_id": [r.prompt.id for r in rows],
        "prompt": [json.dumps([[m.role, m.content] for m in r.prompt.messages]) for r in rows],
        "meta": [json.dumps(dict(r.prompt.meta), default=str) for r in rows],
        "place": [r.prompt.place for r in rows],
        "group": [r.group for r in rows],
        "text": [r.text for r in rows],
        "ids": [list(r.sequence.ids) for r in rows],
        "action": [list(r.sequence.action) for r in rows],
        "logp": [None if r.sequence.logp is None else list(r.sequence.logp) for r in rows],
        "temperature": [r.sequence.temperature for r in rows],
        "version": [r.sequence.version for r in rows],
        "stop": [r.sequence.stop for r in rows],
        "score": [r.score.value if r.score else None for r in rows],
        "score_status": [r.score.status if r.score else None for r in rows],
        "score_reason": [r.score.reason if r.score else None for r in rows],
    }
    for name in parts:
        table[f"part.{name}"] = [r.score.parts.get(name) if r.score else None for r in rows]
    for name, values in columns.items():
        table[name] = list(values)
    return pa.table(table)


def write(table: pa.Table, path: Path) -> None:
    """Write a table."""
    pq.write_table(table, path)


def read(path: Path) -> list[Rollout]:
    """The rollouts of a file."""
    return [_rollout(row) for row in pq.read_table(path).to_pylist()]


def _rollout(row: Mapping[str, Any]) -> Rollout:
    prompt = Prompt(
        tuple(Message(role, content) for role, content in json.loads(row["prompt"])),
        id=row["prompt_id"],
        meta=json.loads(row["meta"]),
        place=row["place"],
    )
    sequence = Sequence(
        ids=tuple(row["ids"]),
        action=tuple(row["action"]),
        logp=None if row["logp"] is None else tuple(row["logp"]),
        temperature=row["temperature"],
        version=row["version"],
        stop=row["stop"],
    )
    score = None
    if row["score_status"] is not None:
        parts = {
            k.removeprefix("part."): v for k, v in row.items() if k.startswith("part.") and v is not None
        }
        score = Score(row["score"], row["score_status"], parts, row["score_reason"])
    return Rollout(prompt, sequence, row["text"], row["group"], score)
