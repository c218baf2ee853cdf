"""Reading a run folder: each file once, so that the bytes shown are the bytes hashed.

Only `summary.json` is required. A broken line of metrics is left out and said so, with its place; a last
line without its end is what a killed writer leaves, and is no reason to have no report.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewardlab.core.errors import UserError
from rewardlab.reporting.intervals import finite

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A file that the report was made from."""

    path: str
    """Relative to the run folder."""
    size: int
    """Bytes."""
    sha256: str


@dataclass
class RunFolder:
    """What a run left behind, as far as the report reads it."""

    summary: dict[str, Any]
    metrics: dict[str, list[Row]] = field(default_factory=dict)
    """Rows of each stage, sorted by step, one per step."""
    recipe: str | None = None
    manifest: dict[str, Any] | None = None
    sources: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be read, and where."""


def read_run_folder(folder: Path) -> RunFolder:
    """Read everything the report needs.

    Raises UserError if the folder or `summary.json` is missing, or if a JSON file cannot be parsed.
    """
    if not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder}: no summary.json here.", "Give the folder of a run that has reached its evaluation."
        )
    sources: list[Source] = []
    run = RunFolder(_object(folder, "summary.json", sources), sources=sources)
    for path in sorted(folder.glob("stages/*/metrics.jsonl")):
        name = path.relative_to(folder).as_posix()
        run.metrics[path.parent.name] = _rows(_read(folder, name, sources), name, run.notes)
    if (folder / "recipe.yaml").is_file():
        run.recipe = _read(folder, "recipe.yaml", sources)
    if (folder / "manifest.json").is_file():
        run.manifest = _object(folder, "manifest.json", sources)
    return run


def _read(folder: Path, name: str, sources: list[Source]) -> str:
    data = (folder / name).read_bytes()
    sources.append(Source(name, len(data), hashlib.sha256(data).hexdigest()))
    return data.decode("utf-8", errors="replace")


def _object(folder: Path, name: str, sources: list[Source]) -> dict[str, Any]:
    try:
        value = json.loads(_read(folder, name, sources))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{folder / name}:{error.lineno}: not JSON: {error.msg}.",
            "Run the evaluation again to rewrite it.",
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{folder / name}:1: expected a JSON object.", "Run the evaluation again to rewrite it."
        )
    return value


def _rows(text: str, name: str, notes: list[str]) -> list[Row]:
    """Rows by step. A step that was written twice (before a crash and after) counts as written last."""
    lines = text.split("\n")
    by_step: dict[float, Row] = {}
    repeated = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        step = finite(row.get("step")) if isinstance(row, dict) else None
        if step is None:
            torn = number == len(lines)  # only a line without its newline is the last of the split
            what = "its last line is torn" if torn else "not a row with a step"
            notes.append(f"{name}:{number}: {what}; left out.")
            continue
        repeated += step in by_step
        by_step[step] = {**row, "step": step}
    if repeated:
        notes.append(f"{name}: {repeated} repeated steps; the last row of each is shown.")
    return [by_step[step] for step in sorted(by_step)]
