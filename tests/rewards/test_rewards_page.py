"""The blocks of docs/rewards.md run (those on training in test_reward_kinds), and its table names every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.rewards.catalog import AnyReward

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


def test_every_rule_of_ours_is_on_the_page() -> None:
    kinds = {
        k for arm in get_args(get_args(AnyReward)[0]) for k in get_args(arm.model_fields["kind"].annotation)
    }
    named = {k for k in kinds if f"`{k}`" in PAGE}
    assert {"sum", "math", "remote", "unit_tests"} <= named
    assert kinds - named == set()
