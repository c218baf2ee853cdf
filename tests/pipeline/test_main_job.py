"""The whole job, small: every stage runs from the embedded default and every promised number is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewardlab import pipeline
from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe

QUICKSTART = Path(pipeline.__file__).parent / "quickstart.yaml"
SMALL = [
    "stages.sft.steps=3",
    "stages.sft.data.rows=100",
    "stages.reward.steps=4",
    "stages.reward.data.rows=120",
    "stages.audit.data.rows=60",
    "stages.dpo.steps=3",
    "stages.dpo.data.rows=100",
    "stages.grpo.steps=2",
    "stages.grpo.prompts_per_step=4",
    "stages.evaluate.data.rows=24",
    "stages.evaluate.samples_in_report=5",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    run_recipe(load_settings(Recipe, QUICKSTART, SMALL).value, folder)
    return folder


def interval(value: dict) -> None:
    assert value["low"] <= value["estimate"] <= value["high"]
    assert value["n"] > 0


def test_the_summary_holds_every_promised_number_with_an_interval(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["policies"]) == ["base", "sft", "dpo", "grpo"]
    for name, policy in summary["policies"].items():
        for metric in ("gold", "proxy", "kl", "length", "entropy", "opener_rate", "distinct_2", "stop_rate"):
            interval(policy[metric])
        if name != "sft":
            interval(policy["win_rate_vs_sft"])
    for metric in ("accuracy", "accuracy_gold", "bayes_accuracy", "ece", "length_slope"):
        interval(summary["reward_model"][metric])
    assert [s["name"] for s in summary["stages"]] == ["sft", "reward", "audit", "dpo", "grpo", "evaluate"]
    assert len(summary["samples"]) == 5


def test_kl_of_the_reference_is_zero(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert abs(summary["policies"]["sft"]["kl"]["estimate"]) < 1e-4
    assert summary["policies"]["base"]["kl"]["estimate"] != 0


def test_the_report_is_one_file_that_shows_them(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    gold = json.loads((folder / "summary.json").read_text())["policies"]["grpo"]["gold"]["estimate"]
    assert f"{gold:.3f}"[:4] in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_rollouts_and_curves_are_on_record(folder: Path) -> None:
    stage = folder / "stages" / "grpo"
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert {"reward", "gold", "kl", "entropy", "length", "grad_norm", "drift"} <= set(rows[0])
    assert rows[0]["drift"] < 1e-5
    assert len(list((stage / "rollouts").iterdir())) == 2


def test_data_hashes_and_counts_are_in_the_manifest(folder: Path) -> None:
    data = json.loads((folder / "manifest.json").read_text())["data"]
    assert data["sft.data"]["rows"] == 100
    assert len(data["reward.data"]["sha256"]) == 64
    assert data["grpo.probe.data"]["tokens"] > 0


def test_a_finished_run_is_not_run_again(folder: Path) -> None:
    before = (folder / "stages" / "grpo" / "done.json").stat().st_mtime_ns
    run_recipe(load_settings(Recipe, QUICKSTART, SMALL).value, folder)
    assert (folder / "stages" / "grpo" / "done.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.dpo.init=grpo", "used before it has run"),
        ("stages.grpo.reward=rewrad", "did you mean 'reward'"),
        ("stages.evaluate.baseline=nobody", "not among the policies"),
        ("model=embedded:advice-bas", "there is no embedded checkpoint"),
        ("world=null", "no `world:` section"),
    ],
)
def test_wrong_references_are_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_recipe(load_settings(Recipe, QUICKSTART, [*SMALL, change]).value, tmp_path / "r")
