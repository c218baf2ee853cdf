"""Checkpoints: whole folders with a hash per file, and state trees without pickle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.records.atomic import sha256, write_folder

log = logging.getLogger(__name__)


def save(
    folder: Path, step: int, write: Callable[[Path], None], *, keep: int = 2, best: bool = False
) -> Path:
    """Write checkpoint `step-<step>` (or `best`) with an index of hashes; keep the newest `keep`."""

    def whole(target: Path) -> None:
        write(target)
        files = {f.name: {"sha256": sha256(f), "bytes": f.stat().st_size} for f in sorted(target.iterdir())}
        (target / "index.json").write_text(json.dumps({"step": step, "files": files}, indent=1))

    path = folder / ("best" if best else f"step-{step:06d}")
    write_folder(path, whole)
    if not best:
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    return path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose files match their hashes; damaged ones are named and passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        if sound(path):
            return path
        log.warning("checkpoint %s is damaged; going back to the one before it", path)
    return None


def best(folder: Path) -> Path | None:
    """The checkpoint with the lowest held-out loss, if one was kept and is sound."""
    path = folder / "best"
    return path if path.is_dir() and sound(path) else None


def sound(path: Path) -> bool:
    """Whether every file is there with the hash of the index."""
    try:
        files = json.loads((path / "index.json").read_text())["files"]
        return all(sha256(path / name) == facts["sha256"] for name, facts in files.items())
    except (OSError, ValueError, KeyError):
        return False


def save_state(folder: Path, tree: Any) -> None:
    """Write a nested state (dicts, lists, tuples, tensors, numbers, strings, None) bit for bit.

    Tensors go to state.safetensors, the structure around them to state.json.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(tree, tensors)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(structure))


def load_state(folder: Path) -> Any:
    """What `save_state` wrote."""
    try:
        tensors = load_file(folder / "state.safetensors")
        return _unflatten(json.loads((folder / "state.json").read_text()), tensors)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the checkpoint {folder} cannot be read ({error}).", "Delete that folder."
        ) from error


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON with a tag for each kind that JSON does not have."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(v, tensors) for v in value]}
    if isinstance(value, float):
        return {"float": value.hex()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {_unflatten(k, tensors): _unflatten(v, tensors) for k, v in inner}
    if kind == "float":
        return float.fromhex(inner)
    items = [_unflatten(v, tensors) for v in inner]
    return items if kind == "list" else tuple(items)
