"""The audit as a stage: several rewards, a policy's best of n, its page, and how its settings are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from support import save_policy, tiny_reward_model


def recipe(model: str, **stage) -> Recipe:
    data = {"source": "world", "split": "heldout", "rows": 40}
    settings = {"kind": "audit", "reward": "length", "data": data, "attack_calls": 200, "probe_pairs": 20}
    whole = {"name": "a", "question": "?", "model": model, "world": {}, "stages": [{**settings, **stage}]}
    return load_settings(Recipe, whole, []).value


def test_rewards_side_by_side_with_a_policy_sampled(tmp_path: Path) -> None:
    policy = str(save_policy(tmp_path / "policy"))
    more = {"policy": policy, "prompts": 6, "samples_per_prompt": 4, "max_new_tokens": 8}
    summary = run_recipe(recipe(policy, against=["gold"], **more), tmp_path / "run")
    page = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert list(page["rewards"]) == ["length", "gold"]
    assert summary["audit"]["lights"]["length"] == "fail"
    curve = page["rewards"]["length"]["sections"]["exploitability"]["curves"]["best_of_n"]
    assert [row["n"] for row in curve] == [1, 2, 4]
    assert set(curve[0]["rewards"]) == {"proxy", "reference"}
    assert page["rewards"]["gold"]["sections"]["exploitability"]["curves"]["best_of_n"] == []
    html = (tmp_path / "run" / "audit.html").read_text()
    assert "Best of n" in html
    assert (tmp_path / "run" / "stages" / "audit" / "scores-length.jsonl").is_file()


def test_sections_can_be_left_out_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    summary = run_recipe(recipe("embedded:advice-base", only=["calibration"]), tmp_path / "one")
    assert list(summary["reward_model"]["sections"]) == ["calibration"]
    with pytest.raises(UserError, match="no section 'bais'"):
        run_recipe(recipe("embedded:advice-base", skip=["bais"]), tmp_path / "two")


def test_another_chat_template_is_compared(tmp_path: Path) -> None:
    model = tiny_reward_model(seed=1)
    model.hf.save_pretrained(tmp_path / "rm")
    model.tokenizer.save_pretrained(tmp_path / "rm")
    folder = str(tmp_path / "rm")
    run_recipe(recipe(folder, reward=folder, only=["invariance"], chat_templates=["plain"]), tmp_path / "run")
    card = json.loads((tmp_path / "run" / "audit.json").read_text())["rewards"][folder]
    found = {m["name"]: m for m in card["sections"]["invariance"]["measures"]}
    assert found["batch_size"]["light"] == "ok"
    assert found["template:plain"]["n"] == 20
    assert found["template:plain"]["estimate"] > 0
