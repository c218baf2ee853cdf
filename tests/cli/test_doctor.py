"""The doctor names what is broken with the command that mends it; its exit code says if the core works."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rewardlab.cli import doctor
from rewardlab.cli.main import app


def checks() -> dict[str, doctor.Check]:
    return {c.name: c for c in doctor.diagnose()}


def shown(found: list[doctor.Check]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(doctor.render(found))
    return capture.get()


def pretend(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None]) -> None:
    """Let some distributions have another version, or none."""

    def version(name: str) -> str:
        found = versions.get(name, importlib.metadata.version(name))
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor, "version", version)


def test_a_working_installation() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    found = {c["name"]: c for c in json.loads(result.output)}
    assert all(c["ok"] or c["optional"] for c in found.values())
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert found["datasets"]["optional"]
    assert "advice-base" in found["embedded checkpoints"]["found"]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"datasets": None})
    found = doctor.diagnose()
    (extra,) = [c for c in found if c.name == "datasets"]
    assert (extra.ok, extra.optional) == (False, True)
    assert "pip install 'rewardlab[datasets]'" in shown(found)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


@pytest.mark.parametrize(("version", "said"), [(None, "not installed"), ("1.0", "1.0, but >=2.12 is needed")])
def test_a_missing_or_old_package_fails(
    monkeypatch: pytest.MonkeyPatch, version: str | None, said: str
) -> None:
    pretend(monkeypatch, {"torch": version})
    torch = checks()["torch"]
    assert (torch.ok, torch.optional, torch.found) == (False, False, said)
    assert torch.advice == "pip install 'torch>=2.12'"
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_an_installed_but_broken_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> ModuleType:
        if name == "peft":
            raise ImportError("cannot import name 'X' from 'transformers'\nmore")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    found = doctor.diagnose()
    (peft,) = [c for c in found if c.name == "peft"]
    assert not peft.ok
    assert "cannot be imported: ImportError: cannot import name 'X' from 'transformers'" in shown(found)
    assert "pip install --force-reinstall peft" in shown(found)


def test_a_damaged_embedded_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "files", lambda name: tmp_path)
    assert checks()["embedded checkpoints"].found == "none"
    folder = tmp_path / "models" / "embedded" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"half")
    found = checks()["embedded checkpoints"]
    assert (found.ok, found.found) == (False, "small (damaged)")


@pytest.mark.parametrize(("major", "said"), [(9, "140 GiB, bf16"), (7, "140 GiB, no bf16")])
def test_a_gpu_by_memory_and_bf16(major: int, said: str) -> None:
    facts = SimpleNamespace(major=major, minor=0, total_memory=140 * 2**30)
    assert said in doctor._gpu(facts, "GPU").found


def test_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", none)
    (check,) = doctor.diagnose()
    assert not check.ok
    assert "pip install -e ." in check.advice
