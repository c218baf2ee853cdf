"""Checkpoints: whole folders with a hash per file, the newest few and the best."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from rewardlab.records.atomic import remove_partials, sha256, sync, write_folder
from rewardlab.records.state import load_state, save_state

__all__ = ["best", "damage", "latest", "load_state", "save", "save_state"]

log = logging.getLogger(__name__)
INDEX = "index.json"


def save(
    folder: Path, step: int, write: Callable[[Path], None], *, keep: int = 2, best: bool = False
) -> Path:
    """Let `write` fill checkpoint `step-<step>` (or `best-<step>`) and add an index of hashes.

    It appears whole or not at all. Afterwards only the newest `keep` (of the best: only this one) stay.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    name = "best" if best else "step"
    path = folder / f"{name}-{step:06d}"
    remove_partials(folder)
    for appended in folder.parent.glob("*.jsonl"):
        sync(appended)  # a run that resumes here will not write these lines again
    write_folder(path, lambda target: _write_with_index(target, step, write))
    stale = [p for p in _found(folder, name) if p != path] if best else _found(folder, name)[keep:]
    for old in stale:
        shutil.rmtree(old)
    return path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is sound; damaged ones are named in a warning and passed over."""
    return _newest_sound(folder, "step")


def best(folder: Path) -> Path | None:
    """The checkpoint that was saved as the best, if there is a sound one."""
    return _newest_sound(folder, "best")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, by its index of sizes and hashes; None if it is sound."""
    try:
        files = json.loads((path / INDEX).read_text())["files"].items()
        for name, facts in files:
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} of {facts['bytes']} bytes"
            if sha256(file) != facts["sha256"]:
                return f"{name} does not have the hash of the index"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{INDEX} cannot be read ({error})"
    return None


def _write_with_index(target: Path, step: int, write: Callable[[Path], None]) -> None:
    write(target)
    files = {
        f.relative_to(target).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256(f)}
        for f in sorted(target.rglob("*"))
        if f.is_file()
    }
    (target / INDEX).write_text(json.dumps({"step": step, "files": files}, indent=1))


def _found(folder: Path, name: str) -> list[Path]:
    """Checkpoint folders of a kind, the newest first."""
    steps = {p: p.name.removeprefix(f"{name}-") for p in folder.glob(f"{name}-*")}
    return sorted((p for p, s in steps.items() if s.isdigit()), key=lambda p: int(steps[p]), reverse=True)


def _newest_sound(folder: Path, name: str) -> Path | None:
    for path in _found(folder, name):
        problem = damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged: %s; going back to the one before it", path, problem)
    return None
