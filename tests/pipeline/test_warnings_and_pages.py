"""What a run warns of and links to: told once, in the summary, on the terminal and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rewardlab.cli.main import app
from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from support import save_policy

DATA = {"source": "world", "split": "heldout", "rows": 40}
AUDIT = {"kind": "audit", "data": DATA, "only": ["calibration"]}
REWARDS: dict[str, Any] = {
    "sure": {"kind": "self_certainty"},
    "vote": {"kind": "majority_vote", "result": "text"},
    "new": {"kind": "diversity", "measure": "distinct"},
    "tempered": {"kind": "diversity", "measure": "distinct", "quality": "length"},
    "mix": {"kind": "sum", "weights": {"sure": 0.5, "new": 0.5}},
    "whole": {"kind": "squash", "of": "mix"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_policy(tmp_path_factory.mktemp("model")))


def recipe(model: str, *stages: dict[str, Any]) -> dict[str, Any]:
    return {"name": "w", "model": model, "world": {}, "rewards": REWARDS, "stages": list(stages)}


def test_the_warnings_of_all_parts_are_told_once(model: str, tmp_path: Path) -> None:
    whole = {**AUDIT, "reward": "whole", "against": ["tempered", "length"]}
    stages = (whole, {**whole, "name": "again", "reward": "mix"})
    settings = load_settings(Recipe, recipe(model, *stages)).value
    summary = run_recipe(settings, tmp_path / "run")
    told = [w for w in summary["warnings"] if "sure" in w or "different" in w]
    assert len(told) == 2
    assert "sure pays the model for being sure" in told[0]
    assert told[1].startswith("new pays for being different")  # not `tempered`, which has a quality
    assert not any("consensus" in w for w in summary["warnings"])  # `vote` is not used
    assert "sure pays the model for being sure" in (tmp_path / "run" / "report.html").read_text()
    again = tmp_path / "run" / "stages" / "again" / "done.json"
    again.unlink()  # as if killed in the second stage: the first one's warnings are there already
    assert run_recipe(settings, tmp_path / "run")["warnings"] == summary["warnings"]


def test_audit_pages_are_linked_and_their_paths_and_the_warnings_printed(model: str, tmp_path: Path) -> None:
    stages = ({**AUDIT, "reward": "new"}, {**AUDIT, "name": "second", "reward": "length"})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(model, *stages)))
    result = CliRunner().invoke(app, ["train", str(file), "--runs", str(tmp_path)], catch_exceptions=False)
    folder = tmp_path / "w"
    summary = json.loads((folder / "summary.json").read_text())
    assert [page["file"] for page in summary["pages"]] == ["audit.html", "second.html"]
    report = (folder / "report.html").read_text()
    assert '<a href="audit.html">Audit of new</a>' in report
    assert '<a href="second.html">Audit of length</a>' in report
    for shown in (result.stdout, CliRunner().invoke(app, ["view", str(folder)]).stdout):
        assert "warning: new pays for being different" in shown
        assert f"Audit of new: {folder / 'audit.html'}" in shown
        assert f"Audit of length: {folder / 'second.html'}" in shown
        assert (folder / "second.html").is_file()
