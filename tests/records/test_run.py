"""The run folder: continues only its own recipe, one process at a time, and deletes only what is its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rewardlab.core.errors import UserError
from rewardlab.records.run import Run


def test_another_recipe_is_refused_and_named(tmp_path: Path) -> None:
    Run.open(tmp_path / "r", "name: r\nstages:\n- kind: sft\n  steps: 3\n", seed=0)
    Run.open(tmp_path / "r", "name: r\nstages:\n- kind: sft\n  steps: 3\n", seed=0)
    with pytest.raises(UserError, match=r"different: stages\.sft\.steps \(3 -> 4\).*--fresh"):
        Run.open(tmp_path / "r", "name: r\nstages:\n- kind: sft\n  steps: 4\n", seed=0)
    Run.open(tmp_path / "r", "name: r\nstages: []\n", seed=0, fresh=True)


def test_a_folder_that_is_not_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    (tmp_path / "recipe.yaml").write_text("name: r\n")
    for fresh in (False, True):
        with pytest.raises(UserError, match="is not a run folder"):
            Run.open(tmp_path, "name: r\n", seed=0, fresh=fresh)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious.txt", "recipe.yaml"]


def test_fresh_deletes_an_earlier_run(tmp_path: Path) -> None:
    Run.open(tmp_path, "name: old\n", seed=0).stage("sft").finish({"steps": 3})
    run = Run.open(tmp_path, "name: new\n", seed=1, fresh=True)
    assert run.stage("sft").done() is None
    assert json.loads((tmp_path / "manifest.json").read_text())["seed"] == 1
    assert (tmp_path / "recipe.yaml").read_text() == "name: new\n"


def test_a_run_whose_deletion_was_killed_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Run.open(tmp_path, "name: r\n", seed=0).stage("sft")
    record.metrics(1, loss=1.0)
    record.finish({"steps": 1})

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            Run.open(tmp_path, "name: r\n", seed=0, fresh=True)
    assert Run.open(tmp_path, "name: r\n", seed=0).stage("sft").done() is None


@pytest.mark.parametrize("written", [1, 2])
def test_a_run_that_was_killed_while_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Killed before the first and before the second of its files was in place."""
    calls = 0

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == written:
            raise KeyboardInterrupt
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("rewardlab.records.atomic.os.replace", replace)
        with pytest.raises(KeyboardInterrupt):
            Run.open(tmp_path, "name: r\n", seed=0)
    Run.open(tmp_path, "name: r\n", seed=0).add_data("sft.data", {"rows": 3})
    assert json.loads((tmp_path / "manifest.json").read_text())["data"]["sft.data"] == {"rows": 3}


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    Run.open(tmp_path, "name: r\n", seed=0)
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is writing"):
            Run.open(tmp_path, "name: r\n", seed=0, fresh=True)
        assert (tmp_path / "recipe.yaml").is_file()
        other.kill()
    Run.open(tmp_path, "name: r\n", seed=0)


def test_changed_data_is_refused_on_continuing(tmp_path: Path) -> None:
    Run.open(tmp_path, "name: r\n", seed=0).add_data("sft", {"source": "a.jsonl", "sha256": "00", "bad": 1})
    run = Run.open(tmp_path, "name: r\n", seed=0)
    run.add_data("sft", {"source": "a.jsonl", "sha256": "00"})
    with pytest.raises(UserError, match=r"the data of a\.jsonl changed"):
        run.add_data("sft", {"source": "a.jsonl", "sha256": "11"})
    assert json.loads((tmp_path / "manifest.json").read_text())["data"] == {
        "sft": {"source": "a.jsonl", "sha256": "00"}
    }


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "a b"])
def test_a_stage_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="stage name"):
        Run.open(tmp_path, "name: r\n", seed=0).stage(name)


def test_continuing_is_noted_until_the_run_is_finished(tmp_path: Path) -> None:
    def resumed() -> list[dict[str, object]]:
        Run.open(tmp_path, "name: r\n", seed=0)
        return json.loads((tmp_path / "manifest.json").read_text()).get("resumed", [])

    run = Run.open(tmp_path, "name: r\n", seed=0)
    run.update_manifest({"versions": {"torch": "1.0"}})
    (entry,) = resumed()
    assert list(entry["versions"]) == ["torch"]
    run.write_summary({})
    assert resumed() == [entry]


def test_manifest_has_versions_hardware_seed_and_data(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", "name: r\n", seed=7)
    run.add_data("sft.data", {"source": "a.jsonl", "sha256": "00", "bad": 1})
    run.write_summary({"policies": {}})
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["seed"] == 7
    assert manifest["versions"]["torch"].startswith("2.")
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["data"]["sft.data"]["bad"] == 1
    assert manifest["finished"] >= manifest["started"]
