"""Rows of annotated comparisons, read for audits: every row counts, so none is dropped as a duplicate."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Messages, Prompt, Rollout
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.messages import BadRowError
from rewardlab.data.readers import files_of, hash_files, read_files
from rewardlab.data.rows import Fields, identity
from rewardlab.pipeline.stages.base import StageData
from rewardlab.records.atomic import sha256
from rewardlab.reporting.intervals import read_interval, show_interval

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

Row = TypeVar("Row")
Table = dict[str, Any]
"""What `reporting.result_tables` shows."""


def read_rows(context: Context, data: StageData, use: str, make: Callable[[Fields, str], Row]) -> list[Row]:
    """Rows of a file through `make`, which raises BadRowError; hash and bad rows go to the manifest.

    UserError at the first bad row unless `on_bad_row: skip`, and where no row is left.
    """
    files = files_of(str(Path(context.recipe.data_root) / data.source))
    rows: list[Row] = []
    bad: list[str] = []
    read = 0
    for place, raw in read_files(files):
        if data.limit is not None and read >= data.limit:
            break
        read += 1
        try:
            if isinstance(raw, str):
                raise BadRowError(raw)
            rows.append(make(Fields(raw, data.columns), place))
        except BadRowError as problem:
            if data.on_bad_row == "error":
                raise UserError(
                    f"{place}: {problem}.",
                    "Repair the row, map its columns, or set `on_bad_row: skip` to leave such rows out.",
                ) from problem
            bad.append(f"{place}: {problem}")
    facts = {"source": data.source, "sha256": hash_files(files), "read": read, "rows": len(rows)}
    context.run.add_data(use, {**facts, "bad": len(bad), "bad_rows": bad[:20]})
    if not rows:
        first = f"First reason: {bad[0]}." if bad else "Check `limit`."
        raise UserError(f"{use}: {data.source} has no usable row ({read} read).", first)
    if bad:
        context.warnings.append(f"{use}: {len(bad)} of {read} rows left out, such as {bad[0]}.")
    return rows


def read_numbers(
    context: Context, source: str, use: str, key: str, columns: Sequence[str]
) -> dict[str, dict[str, float]]:
    """A CSV file as key -> column -> number; empty cells are left out, a missing column is a UserError."""
    file = Path(context.recipe.data_root) / source
    if not file.is_file():
        raise UserError(f"{use}: {source} does not exist.", "Check the path, or `data_root`.")
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [c for c in (key, *columns) if c not in (reader.fieldnames or ())]
        if missing:
            there = ", ".join(reader.fieldnames or ()) or "none"
            raise UserError(f"{use}: {source} has no column {missing[0]!r}.", f"Its columns: {there}.")
        found = {}
        for line, row in enumerate(reader, 2):
            try:
                found[row[key]] = {c: float(row[c]) for c in columns if row[c]}
            except ValueError as error:
                raise UserError(f"{file}:{line}: {error}.", "Repair the row.") from error
    context.run.add_data(use, {"source": source, "sha256": sha256(file), "rows": len(found)})
    return found


def text_of(fields: Fields, name: str) -> str:
    """A column that must hold a text, be it empty."""
    value = fields.need(name)
    if not isinstance(value, str):
        raise BadRowError(f"{name} is not text")
    return value


def asked(prompt: str) -> Messages:
    """A prompt as one user message."""
    return (Message("user", prompt),)


def rollout(prompt: Messages, answer: str, place: str = "") -> Rollout:
    """An answer that nobody sampled, for rewards that read text."""
    return Rollout(Prompt(prompt, place=place), Tokens((0,), (False,)), answer)


def is_held_out(prompt: Messages, fraction: float, seed: int) -> bool:
    """The side that `heldout_fraction` puts a prompt on, as in training stages."""
    return place_of(prompt, seed) < fraction


def place_of(prompt: Messages, seed: int) -> float:
    """A number in [0, 1) that follows from the prompt and the seed alone; sorting by it is a fair draw."""
    return int(identity(prompt, seed)[:8], 16) / 2**32


def table(
    stage: str,
    title: str,
    columns: dict[str, str],
    rows: list[dict[str, Any]],
    *notes: str,
    finding: str | None = None,
) -> Table:
    """A table for the summary; `columns` is key -> heading, `finding` what it shows in one sentence."""
    return {
        "stage": stage,
        "title": title,
        "columns": list(columns.items()),
        "rows": rows,
        "notes": list(notes),
        "finding": finding,
    }


def shown(interval: object) -> str:
    """A stored interval or number as a sentence shows it."""
    found = read_interval(interval)
    return "not measured" if found is None else show_interval(found)
