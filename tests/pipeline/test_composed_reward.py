"""A recipe's own rewards: in training, refused where they cannot work, and found by stages by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from support import save_policy

REWARDS: dict[str, Any] = {
    "brief": {"kind": "length_band", "maximum": 12, "slope": 40},
    "plain": {"kind": "style", "markup": 0.1},
    "mix": {
        "kind": "sum",
        "weights": {"brief": 0.7, "plain": {"start": 0.0, "peak": 0.3, "warmup_steps": 2}},
    },
}


def recipe(model: Path | str, **rewards: Any) -> dict[str, Any]:
    grpo = {
        **{"kind": "grpo", "reward": "mix", "observe": ["brief", "length"], "steps": 2},
        **{"prompts_per_step": 2, "samples_per_prompt": 2, "max_new_tokens": 12, "train_truncated": True},
        "data": {"source": "world", "rows": 8},
    }
    return {"name": "r", "model": str(model), "world": {}, "rewards": REWARDS | rewards, "stages": [grpo]}


def test_grpo_trains_on_a_composed_reward_and_records_its_parts(tmp_path: Path) -> None:
    settings = load_settings(Recipe, recipe(save_policy(tmp_path / "model"))).value
    run_recipe(settings, tmp_path / "run")
    rows = [
        r for s in (1, 2) for r in StageRecord("grpo", tmp_path / "run" / "stages" / "grpo").read_rollouts(s)
    ]
    assert len(rows) == 8
    for row in rows:
        assert row.score is not None
        parts = row.score.parts
        weight = 0.3 * row.sequence.version / 2
        assert row.score.value == pytest.approx(0.7 * parts["brief"] + weight * parts["plain"])
        assert parts["brief/length"] == len(row.text.split())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"plain": {"kind": "product", "of": ["mix"]}}, "made of itself: plain -> mix -> plain"),
        ({"plain": {"kind": "product", "of": ["lenght"]}}, "did you mean 'length'"),
        ({"length": {"kind": "numeric"}}, "something else already"),
        ({"plain": {"kind": "styl"}}, "styl"),
        ({"plain": {"kind": "style", "opner": 1}}, "opener"),
    ],
)
def test_rewards_that_cannot_work_are_refused_before_the_run(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_settings(Recipe, recipe("embedded:advice-base", **change))
