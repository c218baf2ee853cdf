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

_NUMBERS = pa.list_(pa.float64())
# Fixed types: a column that happens to be empty in one step still reads together with the other steps.
_SCHEMA = {
    "prompt_id": pa.string(),
    "prompt": pa.string(),
    "meta": pa.string(),
    "place": pa.string(),
    "group": pa.int64(),
    "text": pa.string(),
    "ids": pa.list_(pa.int64()),
    "action": pa.list_(pa.bool_()),
    "logp": _NUMBERS,
    "temperature": pa.float64(),
    "version": pa.int64(),
    "stop": pa.string(),
    "score": pa.float64(),
    "score_status": pa.string(),
    "score_reason": pa.string(),
    "score_tokens": _NUMBERS,
    "score_uncertainty": pa.float64(),
}


def to_table(rows: Rows[Rollout], columns: Mapping[str, Rows[float]]) -> pa.Table:
    """One row per rollout; reward parts become columns `part.<name>`, `columns` keep their names.

    Messages and meta are JSON text. A value in meta that JSON does not have is stored as its text.
    """
    scores = [r.score for r in rows]
    data: dict[str, list[Any]] = {
        "prompt_id": [r.prompt.id for r in rows],
        "prompt": [json.dumps([[m.role, m.content] for m in r.prompt.messages]) for r in rows],
        "meta": [json.dumps(dict(r.prompt.meta), default=str) for r in rows],
        "place": [r.prompt.place for r in rows],
        "group": [r.group for r in rows],
        "text": [r.text for r in rows],
        "ids": [r.sequence.ids for r in rows],
        "action": [r.sequence.action for r in rows],
        "logp": [r.sequence.logp for r in rows],
        "temperature": [r.sequence.temperature for r in rows],
        "version": [r.sequence.version for r in rows],
        "stop": [r.sequence.stop for r in rows],
        "score": [s.value if s else None for s in scores],
        "score_status": [s.status if s else None for s in scores],
        "score_reason": [s.reason if s else None for s in scores],
        "score_tokens": [s.tokens if s else None for s in scores],
        "score_uncertainty": [s.uncertainty if s else None for s in scores],
    }
    types = dict(_SCHEMA)
    further = {f"part.{name}": [s.parts.get(name) if s else None for s in scores] for name in _parts(rows)}
    for name, values in (*further.items(), *columns.items()):
        if name in data:
            raise ValueError(f"the column {name!r} of rollouts is taken")
        if len(values) != len(rows):
            raise ValueError(f"the column {name!r} has {len(values)} values for {len(rows)} rollouts")
        data[name] = [None if v is None else float(v) for v in values]
        types[name] = pa.float64()
    return pa.table({name: pa.array(data[name], type=kind) for name, kind in types.items()})


def write(table: pa.Table, path: Path) -> None:
    """Write a table."""
    pq.write_table(table, path)


def read(path: Path) -> list[Rollout]:
    """The rollouts of a file."""
    return [_rollout(row) for row in pq.ParquetFile(path).read().to_pylist()]


def _parts(rows: Rows[Rollout]) -> list[str]:
    """All names of reward parts, in the order of their first use."""
    return list(dict.fromkeys(name for r in rows if r.score for name in r.score.parts))


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
        score = Score(
            row["score"],
            row["score_status"],
            parts,
            row["score_reason"],
            None if row["score_tokens"] is None else tuple(row["score_tokens"]),
            row["score_uncertainty"],
        )
    return Rollout(prompt, sequence, row["text"], row["group"], score)
