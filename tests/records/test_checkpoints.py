"""Checkpoints appear whole or not at all, and a damaged one is passed over."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from rewardlab.core.errors import UserError
from rewardlab.records import checkpoints
from rewardlab.records.atomic import write_text


def write(text: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "data.txt").write_text(text)

    return fill


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


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


def test_a_full_disk_inside_safetensors_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, 1, lambda f: checkpoints.save_state(f, {"a": torch.ones(2)}))

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("rewardlab.records.state.save_file", full)
        with pytest.raises(UserError, match="no space left"):
            checkpoints.save(tmp_path, 2, lambda f: checkpoints.save_state(f, {"a": torch.ones(2)}))
    assert names(tmp_path) == ["step-000001"]


def test_other_write_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        checkpoints.save(tmp_path, 1, broken)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: f.write_text("step 2 and more"), "has 15 of 6 bytes"),
        (lambda f: f.write_text("step X"), "hash"),
        (lambda f: f.unlink(), "inner/data.txt is missing"),
        (lambda f: (f.parent.parent / "index.json").write_text("{"), "index.json cannot be read"),
        (lambda f: (f.parent.parent / "index.json").write_text("[]"), "index.json cannot be read"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None], said: str
) -> None:
    """Files in sub-folders are checked too."""
    for step in (1, 2):

        def nested(folder: Path, step: int = step) -> None:
            (folder / "inner").mkdir()
            (folder / "inner" / "data.txt").write_text(f"step {step}")

        path = checkpoints.save(tmp_path, step, nested)
    assert checkpoints.damage(path) is None
    harm(path / "inner" / "data.txt")
    assert said in (checkpoints.damage(path) or "")
    assert checkpoints.latest(tmp_path) == tmp_path / "step-000001"
    assert said in caplog.text
    assert "step-000002" in caplog.text


def test_newest_is_by_number_and_the_best_is_kept(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 3, write("best"), best=True)
    for step in (999_999, 1_000_000, 1_000_001):
        checkpoints.save(tmp_path, step, write("x"), keep=2)
    assert checkpoints.latest(tmp_path) == tmp_path / "step-1000001"
    assert names(tmp_path) == ["best-000003", "step-1000000", "step-1000001"]
    checkpoints.save(tmp_path, 7, write("better"), best=True)
    assert checkpoints.best(tmp_path) == tmp_path / "best-000007"
    assert names(tmp_path) == ["best-000007", "step-1000000", "step-1000001"]
    with pytest.raises(ValueError, match="keep"):
        checkpoints.save(tmp_path, 8, write("x"), keep=0)


def test_a_kill_at_any_rename_leaves_a_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process leaves, a half-written folder too, is cleaned up by the next one."""
    checkpoints.save(tmp_path, 3, write("best"), best=True)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr("rewardlab.records.atomic.shutil.rmtree", lambda *a, **k: None)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, 7, write("better"), best=True)
    assert names(tmp_path) == [".best-000007.partial", "best-000003"]
    assert checkpoints.best(tmp_path) == tmp_path / "best-000003"
    checkpoints.save(tmp_path, 8, write("x"))
    assert names(tmp_path) == ["best-000003", "step-000008"]


def test_the_same_step_may_be_written_again(tmp_path: Path) -> None:
    """A run that went back to an older checkpoint comes by the same steps."""
    checkpoints.save(tmp_path, 1, write("old"))
    path = checkpoints.save(tmp_path, 1, write("new"))
    assert (path / "data.txt").read_text() == "new"
    assert checkpoints.damage(path) is None
