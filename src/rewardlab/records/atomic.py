"""Writing that either happens whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rewardlab.core.errors import UserError

PARTIAL = ".partial"
"""Ending of the temporary files and folders; what a killed process leaves of them is never read."""


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """A full disk becomes one clear message; what was written before stays as it was."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        raise UserError(
            f"no space left on the disk of {place}.",
            "Free some space and run the same command again: it continues from what is already written.",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader sees the old text or the new one."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place."""
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder beside `path`, then move it into place.

    A folder that is already at `path` goes just before the move, which no system call can join with it:
    give new content a new name where the old must survive a crash in between.
    """
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            write(temporary)
            for inner in (temporary, *temporary.rglob("*")):
                sync(inner)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_partials(folder: Path) -> None:
    """Delete what killed writers left in a folder; only its one writer may call this."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that we wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).", "Start the run anew with --fresh.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold a JSON object.", "Start the run anew with --fresh.")
    return found


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_full(error: Exception) -> bool:
    """Whether the disk or the user's quota is full. safetensors gives the number only in its message."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(f"(os error {n})" in str(error) for n in numbers)
