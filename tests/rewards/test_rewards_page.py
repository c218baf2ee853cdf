"""The blocks of docs/rewards.md run (those on training in test_reward_kinds), and its table names every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from rewardlab.core.recipes import load_settings
from rewardlab.judges.catalog import AnyJudge
from rewardlab.pipeline.recipe import Recipe
from rewardlab.rewards.catalog import AnyReward, RewardsFile

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python")[:2], ids=["compose", "foreign"])
def test_python_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "rewards.md", "exec"), {})
    assert re.search(r"value=1\.9|\[1\.0\]", capsys.readouterr().out)


def test_the_section_is_one_of_a_recipe() -> None:
    section = blocks("yaml")[0]
    recipe = {"name": "r", "model": "m", "stages": [], **yaml.safe_load(section)}
    assert list(load_settings(Recipe, recipe).value.rewards)[-1] == "safe"


def test_the_judges_are_all_kinds_and_a_part_of_a_recipe() -> None:
    section = blocks("yaml")[1]
    settings = RewardsFile.model_validate(yaml.safe_load(section))
    data = {"kind": "audit", "reward": "first", "against": ["best_of_group"], "data": {"source": "a.jsonl"}}
    recipe = {"name": "r", "model": "m", "stages": [data], **yaml.safe_load(section)}
    assert load_settings(Recipe, recipe).value.judges == settings.judges
    shown = {j.model_dump()["kind"] for j in settings.judges.values()}
    assert shown == {arm.model_fields["kind"].default for arm in get_args(get_args(AnyJudge)[0])}


def test_every_rule_of_ours_is_on_the_page() -> None:
    kinds = {
        k for arm in get_args(get_args(AnyReward)[0]) for k in get_args(arm.model_fields["kind"].annotation)
    }
    named = {k for k in kinds if f"`{k}`" in PAGE}
    assert {"sum", "math", "remote", "unit_tests"} <= named
    assert kinds - named == set()
