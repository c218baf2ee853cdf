"""Bad input: one clear message with a way out, exit code 2, and nothing already written is lost."""

from __future__ import annotations

import errno
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rewardlab.cli.main import main
from rewardlab.records import checkpoints
from support import save_policy

PAIRS = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
EXAMPLES = [{"prompt": f"{i}?", "completion": f"yes {i}"} for i in range(12)]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def rewardlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit code and standard error on one line."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["rewardlab", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, " ".join(capsys.readouterr().err.split())

    return run


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def recipe(folder: Path, stage: dict, model: Path) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "bad", "model": str(model), "stages": [stage]}))
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("model"))


def test_a_truncated_gz(tmp_path: Path, rewardlab: Run, model: Path) -> None:
    file = tmp_path / "cut.jsonl.gz"
    file.write_bytes(gzip.compress(jsonl(tmp_path / "all.jsonl", EXAMPLES).read_bytes())[:-12])
    code, message = rewardlab(
        "train", recipe(tmp_path, {"kind": "sft", "data": str(file)}, model), "--runs", tmp_path
    )
    assert code == 2
    assert "cut.jsonl.gz" in message
    assert "again" in message


def test_a_row_without_chosen(tmp_path: Path, rewardlab: Run, model: Path) -> None:
    file = jsonl(tmp_path / "pairs.jsonl", [*PAIRS, {"prompt": "P?", "rejected": "no"}])
    code, message = rewardlab(
        "train", recipe(tmp_path, {"kind": "dpo", "data": str(file)}, model), "--runs", tmp_path
    )
    assert code == 2
    assert "pairs.jsonl:13" in message
    assert "chosen" in message
    assert "on_bad_row: skip" in message


def test_a_model_folder_without_a_tokenizer(tmp_path: Path, rewardlab: Run, model: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    data = str(jsonl(tmp_path / "rows.jsonl", EXAMPLES))
    code, message = rewardlab(
        "train", recipe(tmp_path, {"kind": "sft", "data": data}, bare), "--runs", tmp_path
    )
    assert code == 2
    assert "no tokenizer" in message
    assert "save_pretrained" in message


def test_an_unknown_key(tmp_path: Path, rewardlab: Run, model: Path) -> None:
    file = recipe(tmp_path, {"kind": "sft", "data": "x.jsonl", "rows_per_stp": 3}, model)
    code, message = rewardlab("train", file, "--runs", tmp_path)
    assert code == 2
    assert "did you mean `rows_per_step`?" in message


def test_a_dataset_with_no_trainable_token(tmp_path: Path, rewardlab: Run, model: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}]}]
    stage = {"kind": "sft", "data": str(jsonl(tmp_path / "rows.jsonl", rows))}
    code, message = rewardlab("train", recipe(tmp_path, stage, model), "--runs", tmp_path)
    assert code == 2
    assert "rows.jsonl:1" in message
    assert "assistant" in message


def test_a_full_disk_loses_nothing(
    tmp_path: Path, rewardlab: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(jsonl(tmp_path / "rows.jsonl", EXAMPLES))
    stage = {"kind": "sft", "data": data, "rows_per_step": 4, "steps": 6, "checkpoint_every": 2}
    file = recipe(tmp_path, stage, model)
    real = checkpoints.save_state
    calls = []

    def full_at_the_second(folder: Path, tree: object) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, tree)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_state", full_at_the_second)
        code, message = rewardlab("train", file, "--runs", tmp_path)
    assert code == 2
    assert "no space left" in message
    assert "run the same command again" in message
    kept = checkpoints.latest(tmp_path / "bad" / "stages" / "sft" / "checkpoints")
    assert kept is not None
    assert kept.name == "step-000002"
    code, message = rewardlab("train", file, "--runs", tmp_path)
    assert code == 0, message
    metrics = (tmp_path / "bad" / "stages" / "sft" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]


def test_an_error_as_json(tmp_path: Path, rewardlab: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rewardlab", "train", str(tmp_path / "no.yaml"), "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 2
    assert "no.yaml" in json.loads(capsys.readouterr().out)["error"]


def test_another_recipe_in_the_same_folder(tmp_path: Path, rewardlab: Run, model: Path) -> None:
    data = str(jsonl(tmp_path / "rows.jsonl", EXAMPLES))
    file = recipe(tmp_path, {"kind": "sft", "data": data, "steps": 1}, model)
    assert rewardlab("train", file, "--runs", tmp_path)[0] == 0
    code, message = rewardlab("train", file, "stages.sft.steps=2", "--runs", tmp_path)
    assert code == 2
    assert "steps" in message
    assert "--fresh" in message
