"""What the documents say is what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from rewardlab.core.recipes import load_settings
from rewardlab.pipeline.recipe import Recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def test_the_page_of_objectives_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "objectives.py"))["page"]()
    assert (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8") == made, "run `make docs`"


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "README.md", "exec"), {})
    assert "estimate" in capsys.readouterr().out


def test_the_recipe_example_is_a_recipe() -> None:
    recipe = load_settings(Recipe, yaml.safe_load(block("yaml"))).value
    assert [s.name for s in recipe.stages] == ["sft", "reward", "audit", "dpo", "evaluate"]


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda f: f.stem)
def test_recipes_are_valid(file: Path) -> None:
    assert load_settings(Recipe, file).value.stages


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
