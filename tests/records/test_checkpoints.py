"""Checkpoints come back bit for bit, whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.records import checkpoints
from rewardlab.records.atomic import write_text

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_state_round_trips(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    folder = tmp_path_factory.mktemp("state")
    checkpoints.save_state(folder, tree)
    assert checkpoints.load_state(folder) == tree


def test_optimiser_and_generator_states_round_trip(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    adam = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    adam.step()
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    tree = {
        "adam": adam.state_dict(),
        "rng": generator.get_state(),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    checkpoints.save_state(tmp_path, tree)
    back = checkpoints.load_state(tmp_path)
    for name in ("exp_avg", "exp_avg_sq", "step"):
        assert torch.equal(back["adam"]["state"][0][name], adam.state_dict()["state"][0][name])
    assert back["half"].dtype == torch.bfloat16
    other = torch.Generator()
    other.set_state(back["rng"])
    assert torch.equal(torch.rand(4, generator=other), torch.rand(4, generator=generator))


def write(text: str) -> object:
    return lambda folder: (folder / "data.txt").write_text(text)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, write(f"step {step}"), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    (tmp_path / "step-000003" / "data.txt").write_text("step X")
    assert checkpoints.latest(tmp_path) == tmp_path / "step-000002"
    (tmp_path / "step-000002" / "index.json").unlink()
    assert checkpoints.latest(tmp_path) is None


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, write("good"))

    def die(folder: Path) -> None:
        (folder / "data.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 2, die)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_full_disk_says_so_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a.json", "old")
    checkpoints.save(tmp_path, 1, write("good"))

    def full(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match="no space left"):
            write_text(tmp_path / "a.json", "new")
        with pytest.raises(UserError, match="continues from what is already written"):
            checkpoints.save(tmp_path, 2, write("more"))
    assert (tmp_path / "a.json").read_text() == "old"
    assert checkpoints.latest(tmp_path) == tmp_path / "step-000001"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "step-000001"]
