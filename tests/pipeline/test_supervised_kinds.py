"""Every supervised loss by name: five steps through a recipe lower it, and sources keep their shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rewardlab.core.recipes import load_settings
from rewardlab.objectives.imitation import SupervisedSettings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord

CASES: dict[str, dict[str, Any]] = {
    "nll": {},
    "answers alike": {"aggregation": "sequence"},
    "label smoothing": {"label_smoothing": 0.1},
    "dft": {"loss": "probability", "detached": False},
    "threshold": {"loss": "probability", "power": 0.0, "at_most": 0.9},
    "anchored": {"loss": "anchored"},
    "anchored by k3": {"loss": "anchored", "anchor": "k3"},
    "minor_sft": {"loss": "minor_sft"},
    "feasible": {"loss": "feasible", "tolerance": 0.05},
    "shares": {
        "data": [
            {"source": "world", "rows": 24, "weight": 3},
            {"source": "world:base_text", "rows": 8, "weight": 1},
        ]
    },
}


def run(folder: Path, change: dict[str, Any]) -> list[dict[str, float]]:
    stage = {
        "kind": "sft", "name": "it", "data": {"source": "world", "rows": 32}, "rows_per_step": 32, "steps": 5,
        "checkpoint_every": 5,
        "optimiser": {"learning_rate": 1e-3, "schedule": "constant", "warmup_fraction": 0},
    }  # fmt: skip
    whole = {"name": "sft", "model": "embedded:advice-base", "world": {}, "stages": [{**stage, **change}]}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(whole))
    run_recipe(load_settings(Recipe, file, []).value, folder / "run")
    return StageRecord("it", folder / "run" / "stages" / "it").read_metrics()


@pytest.mark.parametrize("name", list(CASES))
def test_a_loss_trains_through_a_recipe(tmp_path: Path, name: str) -> None:
    rows = run(tmp_path, CASES[name])  # each step holds all rows, so the losses compare
    assert len(rows) == 5
    assert rows[-1]["skipped_updates"] == 0
    if (
        name == "feasible"
    ):  # its loss has the multipliers in it, which grow while rows are above the tolerance
        assert rows[-1]["dual_max"] > 0
    else:
        assert rows[-1]["loss"] < rows[0]["loss"]


def test_knobs_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="label_smoothing belongs to loss: nll"):
        SupervisedSettings(loss="anchored", label_smoothing=0.1)
