"""A run that is killed and started again ends in the same bits as one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from rewardlab.records.atomic import sha256
from support import save_policy

STAGES = ("sft", "dpo", "grpo")


def recipe(model: Path) -> dict:
    """Three training stages of six steps, a checkpoint every second one."""
    common = {"steps": 6, "checkpoint_every": 2, "optimiser": {"learning_rate": 1e-3}}
    world = {"source": "world", "rows": 24}
    return {
        "name": "resume",
        "model": str(model),
        "world": {},
        "stages": [
            {"kind": "sft", "data": world, "rows_per_step": 5, **common},
            {"kind": "dpo", "init": "sft", "data": world, "pairs_per_step": 5, "lora": {"rank": 4}, **common},
            {
                "kind": "grpo",
                "init": "sft",
                "data": world,
                "reward": "length",
                "prompts_per_step": 3,
                "samples_per_prompt": 4,
                "max_new_tokens": 12,
                "updates_per_step": 2,
                "train_truncated": True,
                **common,
            },
        ],
    }


def start(file: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rewardlab", "train", str(file), "--runs", str(runs), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_when(process: subprocess.Popen[bytes], metrics: Path, lines: int) -> None:
    """SIGKILL as soon as a stage has recorded so many steps."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= lines:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def record(folder: Path) -> dict[str, object]:
    """All that a stage leaves behind, wall-clock times aside."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds")
    weights = {f.name: sha256(f) for f in (folder / "output").glob("*.safetensors")}
    rollouts = {f.name: sha256(f) for f in folder.glob("rollouts/*.parquet")}
    return {"metrics": rows, "weights": weights, "rollouts": rollouts}


def test_killed_in_every_stage(tmp_path: Path) -> None:
    file = tmp_path / "resume.yaml"
    file.write_text(yaml.safe_dump(recipe(save_policy(tmp_path / "model", "qwen3"))))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(file, whole)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors
    for stage, lines in zip(STAGES, (3, 5, 4), strict=True):
        kill_when(start(file, killed), killed / "resume" / "stages" / stage / "metrics.jsonl", lines)
    process = start(file, killed)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors
    for stage in STAGES:
        found, expected = (record(runs / "resume" / "stages" / stage) for runs in (killed, whole))
        assert len(expected["metrics"]) == 6
        assert expected["weights"]
        assert found == expected
    assert len(list((whole / "resume" / "stages" / "grpo" / "rollouts").iterdir())) == 6
