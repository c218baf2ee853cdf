"""A nested state as safetensors and JSON, and back bit for bit. No pickle: loading runs no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.core.errors import UserError

LARGEST_PLAIN_INT = 2**53
"""Larger ints go as hexadecimal text: other readers of JSON would round them."""


def save_state(folder: Path, tree: Any) -> None:
    """Write dicts, lists, tuples, tensors, numpy arrays and numbers, ints of any size, floats, strings and
    None.

    Tensors and arrays go to state.safetensors, the structure around them to state.json. Raises TypeError,
    naming the place, for anything else. Tensors come back on the CPU, without a gradient.
    """
    store = _Store()
    structure = _encode(tree, store, "state")
    save_file(store.tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(structure))


def load_state(folder: Path) -> Any:
    """What `save_state` wrote."""
    try:
        tensors = load_file(folder / "state.safetensors")
        return _decode(json.loads((folder / "state.json").read_text()), tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint {folder} cannot be read ({error}).",
            "Delete that folder and run the same command again: it continues from the one before.",
        ) from error


class _Store:
    """The tensors of a state by number."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.storages: set[int] = set()

    def add(self, value: Tensor) -> str:
        """File a tensor. Those that share memory are stored one by one, as the format needs."""
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in self.storages:
            tensor = tensor.clone()
        self.storages.add(tensor.untyped_storage().data_ptr())
        name = str(len(self.tensors))
        self.tensors[name] = tensor
        return name


def _encode(value: Any, store: _Store, place: str) -> Any:
    """JSON with a tag for each kind that JSON does not have."""
    if isinstance(value, Tensor):
        return {"tensor": store.add(value)}
    if isinstance(value, np.ndarray | np.number | np.bool_ | np.datetime64):
        return _encode_array(value, store, place)
    if isinstance(value, dict):
        return {
            "dict": [[_encode(k, store, place), _encode(v, store, f"{place}.{k}")] for k, v in value.items()]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(v, store, f"{place}.{i}") for i, v in enumerate(value)]}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_PLAIN_INT:
        return {"int": hex(value)}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{place}: a checkpoint cannot hold a {type(value).__name__}")


def _encode_array(value: np.ndarray[Any, Any] | np.generic, store: _Store, place: str) -> Any:
    """A numpy value as its bytes, with dtype and shape: this covers every dtype that has plain bytes."""
    if value.dtype.hasobject or value.dtype.names is not None:
        raise TypeError(f"{place}: a checkpoint cannot hold a numpy array of {value.dtype}")
    raw = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8) if value.nbytes else torch.empty(0)
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return {kind: [store.add(raw), value.dtype.str, list(value.shape)]}


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind in ("array", "scalar"):
        name, dtype, shape = inner
        array = np.frombuffer(tensors[name].numpy().tobytes(), dtype=np.dtype(dtype)).reshape(shape).copy()
        return array if kind == "array" else array[()]
    if kind == "dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in inner}
    if kind == "float":
        return float.fromhex(inner)
    if kind == "int":
        return int(inner, 16)
    items = [_decode(v, tensors) for v in inner]
    return items if kind == "list" else tuple(items)
