"""The page on adding an algorithm, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rewardlab.core.recipes import load_settings
from rewardlab.pipeline import recipe as recipes
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord

BLOCKS = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).parent.parent / "docs" / "adding_an_algorithm.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


def test_the_algorithm_has_fewer_than_sixty_lines() -> None:
    assert len(BLOCKS) == 3
    assert len(BLOCKS[0].splitlines()) < 60


def test_the_page_trains_and_the_reward_rises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(BLOCKS[:2]):
        exec(compile(block, f"block {number}", "exec", dont_inherit=True), names)
    reward = [row["reward"] for row in names["record"].read_metrics()]
    assert len(reward) == 12
    assert sum(reward[-3:]) > 1.2 * sum(reward[:3])


def test_the_stage_of_the_page_runs_through_a_recipe(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for number in (0, 2):
        exec(compile(BLOCKS[number], f"block {number}", "exec", dont_inherit=True), names)
    kind = names["RunningBaselineStage"]

    class Recipe(recipes.Recipe):
        stages: list[kind]  # type: ignore[valid-type]

    Recipe.model_rebuild(_types_namespace={**vars(recipes), "kind": kind})
    stage = {
        "kind": "running_baseline", "data": {"source": "world", "rows": 8}, "reward": "length", "steps": 2,
        "prompts_per_step": 2, "samples_per_prompt": 2, "max_new_tokens": 8, "train_truncated": True,
    }  # fmt: skip
    whole = {"name": "page", "model": "embedded:advice-base", "world": {}, "stages": [stage]}
    run_recipe(load_settings(Recipe, whole, []).value, tmp_path / "run")
    metrics = StageRecord("running_baseline", tmp_path / "run" / "stages" / "running_baseline").read_metrics()
    assert [row["step"] for row in metrics] == [1, 2]
