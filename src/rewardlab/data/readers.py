"""Raw rows from files: every row comes with its place, every damage is named."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rewardlab.core.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
Raw = tuple[str, dict[str, Any] | str]
"""A place (`file:line`) and the row, or what is wrong with it."""


def files_of(source: str) -> list[Path]:
    """The files behind a source, sorted; a missing one is refused with the nearest existing name."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES))
        if not found:
            raise UserError(f"data: the folder {source} holds no {', '.join(SUFFIXES)} file.")
        return found
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [str(path.parent / n) for n in difflib.get_close_matches(path.name, names, n=3)]
        hint = f"Did you mean {' or '.join(near)}?" if near else "Check the path, or `data_root`."
        raise UserError(f"data: {source} does not exist.", hint)
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"data: {source} is not a kind of file this reads.", f"Use {', '.join(SUFFIXES)}.")
    return [path]


def read_files(files: list[Path]) -> Iterator[Raw]:
    """All rows of these files in order."""
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _jsonl(file)


def _jsonl(file: Path) -> Iterator[Raw]:
    number = rows = 0
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}:{number}", _row(line)
                    rows += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(
                f"data: {file} is damaged after line {number} ({rows} rows read): {error}.",
                "Copy or download the file again.",
            ) from error


def _row(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        return f"not readable ({error})"
    return row if isinstance(row, dict) else f"a JSON object is needed, not {type(row).__name__}"


def _parquet(file: Path) -> Iterator[Raw]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for block in table.iter_batches():
                for row in block.to_pylist():
                    number += 1
                    yield f"{file}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"data: {file} is damaged after row {number}: {error}.", "Copy or write the file again."
        ) from error


def hash_files(files: list[Path]) -> str:
    """sha256 over the bytes of the files in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_hub(source: str) -> tuple[list[Raw], str]:
    """Rows of `hf:org/name[[:config]:split]` (default split: train) and the sha256 of their JSON."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"data: {source} needs the package `datasets`.", "pip install 'rewardlab[datasets]'"
        ) from error
    name, *rest = source.removeprefix("hf:").split(":")
    if len(rest) > 2:
        raise UserError(f"data: {source} has too many parts.", "Write `hf:org/name[[:config]:split]`.")
    config, split = rest if len(rest) == 2 else (None, rest[0] if rest else "train")
    try:
        found = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub's client raises many kinds, all of them about the source
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"data: {source} could not be loaded ({first}).",
            "Check the id, the config (`hf:org/name:config:split`), the split and the connection, "
            "or give a local file.",
        ) from error
    rows: list[Raw] = [(f"{source}:{i}", dict(row)) for i, row in enumerate(found, 1)]
    digest = hashlib.sha256()
    for _, row in rows:
        digest.update(json.dumps(row, default=str, sort_keys=True).encode())
    return rows, digest.hexdigest()
