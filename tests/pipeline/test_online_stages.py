"""Every stage that learns from own answers or a teacher, five steps of it on the advice world."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from support import save_policy

PROMPTS = {"source": "world", "rows": 64}
PROBE = {
    "data": {"source": "world", "rows": 24, "split": "heldout"},
    "rewards": ["gold", "length"],
    "max_new_tokens": 64,
}
FIVE = {
    "data": PROMPTS,
    "steps": 5,
    "evaluate_every": 1,
    "optimiser": {"learning_rate": 3e-4, "schedule": "constant"},
}
SAMPLED = {"prompts_per_step": 10, "samples_per_prompt": 4, "max_new_tokens": 64}
LENGTH = {"reward": "length", "observe": ["gold"], **SAMPLED, **FIVE, "probe": PROBE}
STAGES: list[dict[str, Any]] = [
    {
        "kind": "sft",
        "data": {"source": "world", "rows": 200},
        "rows_per_step": 16,
        "steps": 12,
        "optimiser": {"learning_rate": 3e-3},
    },
    {"kind": "online_dpo", **LENGTH},
    {
        "kind": "iterative_dpo",
        **{k: v for k, v in LENGTH.items() if k != "prompts_per_step"},
        "prompts_per_round": 16,
        "updates_per_round": 3,
        "buffer": "rolling:2",
    },
    {"kind": "rejection_sampling", **LENGTH, "optimiser": {"learning_rate": 2e-3, "schedule": "constant"}},
    {
        "kind": "distill",
        "teacher": "sft",
        **FIVE,
        "data": {"source": "world", "rows": 60, "heldout_fraction": 0.2},
        "rows_per_step": 16,
        "optimiser": {"learning_rate": 1e-3},
    },
    {
        "kind": "on_policy_distill",
        "teacher": "sft",
        "observe": ["gold"],
        **SAMPLED,
        **FIVE,
        "optimiser": {"learning_rate": 1e-3, "schedule": "constant"},
    },
    {
        "kind": "best_of_n",
        "rewards": {"proxy": "length", "gold": "gold"},
        "data": {"source": "world", "rows": 16, "split": "heldout"},
        "samples_per_prompt": 9,
        "max_new_tokens": 64,
    },
]


def recipe(folder: Path, stages: list[dict[str, Any]]) -> Recipe:
    file = folder / "recipe.yaml"
    whole = {"name": "online", "model": "embedded:advice-base", "world": {}, "stages": stages}
    file.write_text(yaml.safe_dump(whole))
    return load_settings(Recipe, file, []).value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    run_recipe(recipe(folder, STAGES), folder / "run")
    return folder / "run"


def metrics(folder: Path, stage: str) -> list[dict[str, float]]:
    return StageRecord(stage, folder / "stages" / stage).read_metrics()


@pytest.mark.parametrize("stage", ["online_dpo", "iterative_dpo", "rejection_sampling"])
def test_the_reward_rises(folder: Path, stage: str) -> None:
    rows = metrics(folder, stage)
    assert len(rows) == 5
    assert rows[-1]["eval_length"] > 0
    assert {"reward", "gold", "loss", "stop_rate"} <= set(rows[0])
    assert fmean(r["eval_length"] for r in rows[3:]) > rows[0]["eval_length"]


@pytest.mark.parametrize("stage", ["distill", "on_policy_distill"])
def test_the_student_comes_closer_to_the_teacher(folder: Path, stage: str) -> None:
    rows = metrics(folder, stage)
    assert len(rows) == 5
    assert fmean(r["distil"] for r in rows[3:]) < 0.8 * rows[0]["distil"]
    if stage == "distill":
        assert rows[-1]["eval_loss"] < rows[0]["eval_loss"]


def test_the_age_of_trained_pairs_is_on_record(folder: Path) -> None:
    rows = metrics(folder, "iterative_dpo")
    assert [r["round"] for r in rows] == [0, 0, 0, 1, 1]
    assert [r["pair_age_steps"] for r in rows[:3]] == [0, 1, 2]
    assert 0 < rows[3]["pair_age_rounds"] < 1
    record = StageRecord("iterative_dpo", folder / "stages" / "iterative_dpo")
    assert record.rollout_steps() == [1, 4]
    assert {r.sequence.version for r in record.read_rollouts(4)} == {3}


def test_best_of_n_gives_proxy_and_gold_over_n(folder: Path) -> None:
    found = json.loads((folder / "summary.json").read_text())["best_of_n"]
    assert [row["n"] for row in found["curve"]] == [1, 2, 4, 8]
    proxy = [row["rewards"]["proxy"]["estimate"] for row in found["curve"]]
    assert proxy == sorted(proxy)
    rollouts = StageRecord("best_of_n", folder / "stages" / "best_of_n").read_rollouts(0)
    assert len(rollouts) == 16 * 9
    assert proxy[0] == pytest.approx(fmean(len(r.text.split()) for r in rollouts))
    assert found["curve"][3]["kl_bound"] == pytest.approx(math.log(8) - 7 / 8)
    for row in found["curve"]:
        gold = row["rewards"]["gold"]
        assert gold["low"] <= gold["estimate"] <= gold["high"]
        assert gold["n"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "distill", "teacher": "nobody"}, "nobody"),
        ({"kind": "on_policy_distill", "teacher": "later"}, "later"),
        ({"kind": "online_dpo", "reward": "length", "samples_per_prompt": 1}, "samples_per_prompt"),
        ({"kind": "iterative_dpo", "reward": "length", "buffer": "rolling:0"}, "buffer"),
        ({"kind": "rejection_sampling", "reward": "length", "keep": "threshold"}, "threshold"),
        ({"kind": "best_of_n", "rewards": {"gold": "gold"}}, "proxy"),
        ({"kind": "best_of_n", "rewards": {"proxy": "gold"}, "sizes": [32]}, "sizes"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, [{"data": PROMPTS, **change}])


def test_a_teacher_of_another_family_is_refused(tmp_path: Path) -> None:
    teacher = str(save_policy(tmp_path / "other"))
    stage = {"kind": "distill", "teacher": teacher, **FIVE}
    with pytest.raises(UserError, match="another tokenizer"):
        run_recipe(recipe(tmp_path, [stage]), tmp_path / "run")
