"""The run folder: continues only its own recipe, survives torn lines, gives rollouts back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.records.run import Run


def rollout(text: str, score: Score | None) -> Rollout:
    prompt = Prompt((Message("user", "Hi"),), id="p1", meta={"answer": 3}, place="a.jsonl:1")
    sequence = Sequence((1, 2, 3), (False, True, True), (0.0, -0.25, -1.5), 0.7, 4, "stop")
    return Rollout(prompt, sequence, text, 2, score)


def test_rollouts_come_back_whole(tmp_path: Path) -> None:
    record = Run.open(tmp_path / "r", "name: r\n", seed=0).stage("grpo")
    rows = [
        rollout("a", Score(0.5, parts={"recall": 1.0, "wrong": -0.5})),
        rollout("b", Score.error("parser died")),
        rollout("c", Score.abstain("no opinion")),
        rollout("d", None),
    ]
    record.write_rollouts(3, rows, {"advantage": [1.0, 0.0, 0.0, -1.0]})
    back = record.read_rollouts(3)
    assert [r.sequence for r in back] == [r.sequence for r in rows]
    assert [r.prompt for r in back] == [r.prompt for r in rows]
    assert [r.score for r in back] == [r.score for r in rows]


def test_a_torn_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    record = Run.open(tmp_path / "r", "name: r\n", seed=0).stage("sft")
    for step in (1, 2, 3):
        record.metrics(step, loss=step / 3)
    file = record.folder / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 4, "lo')
    assert [row["step"] for row in record.read_metrics()] == [1, 2, 3]
    record.truncate_to(2)
    record.metrics(3, loss=9.0)
    assert [row["loss"] for row in record.read_metrics()] == [1 / 3, 2 / 3, 9.0]


def test_truncation_drops_later_rollouts(tmp_path: Path) -> None:
    record = Run.open(tmp_path / "r", "name: r\n", seed=0).stage("grpo")
    for step in (1, 2, 3):
        record.write_rollouts(step, [rollout("a", None)])
    record.truncate_to(1)
    assert [f.name for f in (record.folder / "rollouts").iterdir()] == ["000001.parquet"]


def test_another_recipe_is_refused_and_named(tmp_path: Path) -> None:
    Run.open(tmp_path / "r", "name: r\nstages:\n- kind: sft\n  steps: 3\n", seed=0)
    Run.open(tmp_path / "r", "name: r\nstages:\n- kind: sft\n  steps: 3\n", seed=0)
    with pytest.raises(UserError, match=r"different: stages\.0\.steps.*--fresh"):
        Run.open(tmp_path / "r", "name: r\nstages:\n- kind: sft\n  steps: 4\n", seed=0)
    Run.open(tmp_path / "r", "name: r\nstages: []\n", seed=0, fresh=True)


def test_fresh_never_deletes_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    Run.open(tmp_path, "name: r\n", seed=0, fresh=True)
    assert (tmp_path / "precious.txt").read_text() == "keep"


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
