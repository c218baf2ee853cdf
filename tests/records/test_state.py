"""Any state comes back bit for bit and with its types, without pickle."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rewardlab.core.errors import UserError
from rewardlab.records.state import load_state, save_state

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy: speed is not what is tested."""

TORCH = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.uint8,
    torch.bool,
    torch.complex64,
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits in any dtype and shape, transposed or not."""
    kind = draw(st.sampled_from(TORCH))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = int(np.prod(shape, dtype=int))
    if kind == torch.bool:
        flat = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=kind)
    else:
        width = torch.empty(0, dtype=kind).element_size()
        data = bytearray(draw(st.binary(min_size=size * width, max_size=size * width)))
        flat = torch.frombuffer(data, dtype=kind) if size else torch.empty(0, dtype=kind)
    tensor = flat.reshape(shape)
    return tensor.transpose(0, -1) if tensor.ndim > 1 and draw(st.booleans()) else tensor


arrays = npst.arrays(
    st.one_of(
        npst.scalar_dtypes(),
        npst.unicode_string_dtypes(max_len=3),
        npst.byte_string_dtypes(max_len=3),
    ),
    npst.array_shapes(min_dims=0, min_side=0, max_side=3),
)
scalars = arrays.filter(lambda a: a.size > 0 and a.dtype.kind not in "US").map(lambda a: a.ravel()[0])
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
big = st.integers(-(2**200), 2**200)
keys = st.text(max_size=3) | st.integers() | st.booleans() | st.tuples(st.integers(), st.text(max_size=2))
trees = st.recursive(
    plain | big | tensors() | arrays | scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=10,
)


def bits(value: Any) -> Any:
    """A value as something whose equality means equal types and equal bits."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return ("tensor", value.dtype, tuple(value.shape), raw)
    if isinstance(value, np.ndarray | np.generic):
        return (type(value), value.dtype, value.shape, value.tobytes())
    if isinstance(value, dict):
        return ("dict", [(bits(k), bits(v)) for k, v in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [bits(v) for v in value])
    return (type(value), value.hex() if isinstance(value, float) else value)


@patient
@given(trees)
def test_any_state_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("state")
    save_state(folder, tree)
    assert bits(load_state(folder)) == bits(tree)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    python, numpy, legacy = random.Random(3), np.random.default_rng(3), np.random.RandomState(3)
    generator = torch.Generator().manual_seed(3)
    python.gauss(), numpy.random(5), legacy.rand(3), torch.rand(5, generator=generator)
    states = {
        "python": python.getstate(),
        "numpy": numpy.bit_generator.state,
        "legacy": legacy.get_state(),
        "torch": generator.get_state(),
    }
    save_state(tmp_path, states)
    expected = (python.random(), numpy.random(), legacy.rand(), torch.rand(2, generator=generator).tolist())
    back = load_state(tmp_path)
    python, numpy, legacy = random.Random(0), np.random.default_rng(0), np.random.RandomState(0)
    python.setstate(back["python"])
    numpy.bit_generator.state = back["numpy"]
    legacy.set_state(back["legacy"])
    generator = torch.Generator()
    generator.set_state(back["torch"])
    assert expected == (
        python.random(),
        numpy.random(),
        legacy.rand(),
        torch.rand(2, generator=generator).tolist(),
    )


def test_an_optimiser_steps_on_as_if_never_saved(tmp_path: Path) -> None:
    def step(weight: torch.nn.Parameter, adam: torch.optim.AdamW) -> None:
        adam.zero_grad()
        (weight**2).sum().backward()
        adam.step()

    straight = torch.nn.Parameter(torch.arange(1.0, 7.0).reshape(3, 2))
    adam = torch.optim.AdamW([straight], lr=0.1)
    step(straight, adam)
    save_state(tmp_path, {"weight": straight, "adam": adam.state_dict()})
    back = load_state(tmp_path)
    again = torch.nn.Parameter(back["weight"])
    restored = torch.optim.AdamW([again], lr=9.0)
    restored.load_state_dict(back["adam"])
    for _ in range(3):
        step(straight, adam)
        step(again, restored)
    assert torch.equal(straight, again)


def test_tensors_that_share_memory_are_each_stored(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_state(tmp_path, {"all": base, "part": base[2:4], "turned": base.reshape(2, 3).T, "same": base})
    back = load_state(tmp_path)
    assert back["part"].tolist() == [2.0, 3.0]
    assert back["turned"].tolist() == base.reshape(2, 3).T.tolist()
    back["all"][0] = 9.0
    assert back["same"][0] == 0.0


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), np.array([object()]), lambda: 0])
def test_what_cannot_be_kept_is_refused_with_its_place(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"state\.a\.1: a checkpoint cannot hold"):
        save_state(tmp_path, {"a": [0, value]})


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_broken_state_is_an_error_with_a_way_out(tmp_path: Path, file: str) -> None:
    save_state(tmp_path, {"a": torch.ones(3)})
    (tmp_path / file).write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        load_state(tmp_path)


def test_other_readers_of_json_need_not_round(tmp_path: Path) -> None:
    save_state(tmp_path, {"counter": 2**53, "seed": 2**64 + 1})
    text = (tmp_path / "state.json").read_text()
    assert json.loads(text, parse_float=pytest.fail)
    assert str(2**64 + 1) not in text
    assert load_state(tmp_path) == {"counter": 2**53, "seed": 2**64 + 1}
