"""Settings: every value has an origin, every mistake a place and a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import dump_yaml, explain, load_settings
from rewardlab.core.settings import Settings


class Optimiser(Settings):
    learning_rate: float = 1e-3
    """Peak rate."""


class Walk(Settings):
    kind: Literal["walk"] = "walk"
    name: str = ""
    steps: int = 5
    optimiser: Optimiser = Optimiser()


class Rest(Settings):
    kind: Literal["rest"] = "rest"
    hours: float | None = None


class Trip(Settings):
    name: str
    tags: list[str] = []
    """Free words."""
    weights: dict[str, float] = {}
    stages: list[Annotated[Walk | Rest, Field(discriminator="kind")]] = []


TEXT = """\
name: trip
tags: [a, b]
stages:
  - kind: walk
    steps: 7
    optimiser: {learning_rate: 1e-4}
  - kind: rest
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trip.yaml"
    path.write_text(TEXT)
    return path


def test_values_and_origins(file: Path) -> None:
    resolved = load_settings(Trip, file, ["stages.walk.steps=9", "tags=[c]"])
    walk = resolved.value.stages[0]
    assert isinstance(walk, Walk)
    assert (walk.steps, walk.optimiser.learning_rate) == (9, 1e-4)
    shown = explain(resolved).plain
    assert "stages.0.steps: 9   [command line]" in shown
    assert f"stages.0.optimiser.learning_rate: 0.0001   [{file}:6]\n    Peak rate." in shown
    assert "stages.1.hours: None   [default]" in shown
    assert "tags: ['c']   [command line]" in shown


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.walk.stps=3"], r"unknown key `stps` in stages.walk; did you mean `steps`\?"),
        (["nam=x"], r"unknown key `nam`; did you mean `name`\?"),
        (["stages.walk.optimiser.learningrate=3"], r"`learningrate` in stages.walk.optimiser; did you mean"),
        (["stages.walk.steps=many"], r"stages.walk.steps: .*integer.*\(given: 'many'\)"),
        (["stages.run.steps=3"], r"there is no item 'run'. Items: walk, rest"),
        (["stages"], "not key=value"),
        (["name.x.y=3"], "mapping|string"),
    ],
)
def test_mistakes_on_the_command_line(file: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(Trip, file, overrides)


def test_all_mistakes_of_a_file_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "name: trip\ntagz: []\nstages:\n  - kind: walk\n    steps: 1.5\n  - kind: rest\n    hour: 2\n"
    )
    with pytest.raises(UserError) as caught:
        load_settings(Trip, file)
    text = str(caught.value)
    assert f"{file}:2: unknown key `tagz`; did you mean `tags`?" in text
    assert f"{file}:5: stages.walk.steps" in text
    assert f"{file}:7: unknown key `hour` in stages.rest; did you mean `hours`?" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", r":2: the key 'name' stands twice"),
        ("name: [a\n", "not valid YAML"),
        ("- a\n", "a mapping of settings is needed"),
        ("tags: []\n", "name: Field required"),
        ("name: t\nstages:\n  - kind: fly\n", r":3: .*fly"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_settings(Trip, file)


def test_a_missing_file_suggests_the_nearest(file: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean .*trip\.yaml"):
        load_settings(Trip, file.with_name("tripp.yaml"))


words = st.text(max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
stages = st.lists(
    st.one_of(
        st.builds(
            Walk, name=words, steps=st.integers(), optimiser=st.builds(Optimiser, learning_rate=floats)
        ),
        st.builds(Rest, hours=st.none() | floats),
    ),
    max_size=3,
)


@given(
    st.builds(
        Trip,
        name=words,
        tags=st.lists(words),
        weights=st.dictionaries(words, floats, max_size=3),
        stages=stages,
    )
)
def test_a_dumped_recipe_loads_back(tmp_path_factory: pytest.TempPathFactory, trip: Trip) -> None:
    file = tmp_path_factory.mktemp("dump") / "trip.yaml"
    file.write_text(dump_yaml(trip), encoding="utf-8")
    assert load_settings(Trip, file).value == trip
