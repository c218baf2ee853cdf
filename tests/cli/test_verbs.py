"""The verbs on real models: what they print for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewardlab.cli.main import main
from support import save_policy


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rewardlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    printed = capsys.readouterr()
    assert not stop.value.code, printed.err
    return printed.out


def test_evaluate_two_folders_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save_policy(tmp_path / "a", seed=0), save_policy(tmp_path / "b", seed=1)
    options = ("--runs", tmp_path, "--max-new-tokens", "8", "--reward", "gold", "--reward", "length")
    summary = json.loads(run(capsys, "evaluate", a, b, *options, "--json"))
    assert list(summary["policies"]) == ["a", "b"]
    assert summary["baseline"] == "a"
    assert {"gold", "proxy", "kl", "win_rate_vs_a"} <= set(summary["policies"]["b"])
    assert (Path(summary["folder"]) / "report.html").is_file()
    assert "gold" in run(capsys, "view", summary["folder"])


def test_audit_a_rule_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": f"{i}?", "chosen": "a long answer " * (1 + i % 3), "rejected": "short"} for i in range(40)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    summary = json.loads(run(capsys, "audit", "length", file, "--runs", tmp_path, "--json"))
    assert summary["reward_model"]["accuracy"]["estimate"] == 1.0
    verdicts = {v["check"]: v["verdict"] for v in summary["reward_model"]["verdicts"]}
    assert verdicts["padding"] == "fail"


def test_explain_shows_values_with_origin_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(run(capsys, "quickstart", "--explain", "stages.grpo.kl_coefficient=0.5").split())
    assert "kl_coefficient: 0.5 [command line]" in shown
    assert "quickstart.yaml:" in shown


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    checks = {c["name"]: c for c in json.loads(run(capsys, "doctor", "--json"))}
    assert checks["torch"]["ok"]
    assert checks["embedded checkpoints"]["found"] == "advice-base"
