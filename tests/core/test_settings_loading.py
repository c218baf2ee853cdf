"""Recipes: what a user writes is what they get, and every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BeforeValidator, Field, model_validator

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import Resolved, differences, dump_yaml, explain, load_settings
from rewardlab.core.settings import Settings
from rewardlab.core.yaml_lines import dump, parse_value

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy: speed is not what is tested."""


class Optimiser(Settings):
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    betas: list[float] = [0.9, 0.95]


class Source(Settings):
    path: str
    rows: int = 10

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


Sources = Annotated[list[Source], BeforeValidator(lambda v: v if isinstance(v, list) else [v])]


class Warm(Settings):
    kind: Literal["sft"] = "sft"
    name: str = ""
    steps: int = Field(default=5, gt=0)
    """How many optimiser steps."""
    data: Sources = []
    optimiser: Optimiser = Optimiser()


class Reward(Settings):
    kind: Literal["reward"] = "reward"
    name: str = ""
    reward: float = 0.0
    tags: dict[str, str] = {}


class Plan(Settings):
    name: str
    note: str | None = None
    flag: bool = False
    extra: dict[str, Optimiser] = {}
    stages: list[Annotated[Warm | Reward, Field(discriminator="kind")]] = []


GOOD = """\
name: demo
stages:
  - kind: sft
    steps: 7
    data: {path: a.jsonl}
    optimiser:
      learning_rate: 1e-4
  - kind: reward
    name: judge
"""


def load(folder: Path, text: str, *overrides: str) -> Resolved[Plan]:
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return load_settings(Plan, folder / "r.yaml", list(overrides))


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The problems of a bad recipe, without the folder in their places."""
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides)
    return caught.value.problem.replace(f"{folder}/", "").splitlines()


def stage(resolved: Resolved[Plan], number: int = 0) -> Any:
    return resolved.value.stages[number]


def test_origin_of_every_leaf(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD, "stages.judge.reward=2", "stages.sft.data.rows=3")
    origins = {".".join(map(str, p)): o.removeprefix(f"{tmp_path}/") for p, o in found.origins.items()}
    assert stage(found).optimiser.learning_rate == 1e-4
    assert stage(found).data == [Source(path="a.jsonl", rows=3)]
    assert origins == {
        "name": "r.yaml:1",
        "note": "default",
        "flag": "default",
        "extra": "default",
        "stages.0.kind": "r.yaml:3",
        "stages.0.name": "default",
        "stages.0.steps": "r.yaml:4",
        "stages.0.data.0.path": "r.yaml:5",
        "stages.0.data.0.rows": "command line",
        "stages.0.optimiser.learning_rate": "r.yaml:7",
        "stages.0.optimiser.betas": "default",
        "stages.1.kind": "r.yaml:8",
        "stages.1.name": "r.yaml:9",
        "stages.1.reward": "command line",
        "stages.1.tags": "default",
    }


def test_explain_shows_value_origin_and_meaning(tmp_path: Path) -> None:
    text = explain(load(tmp_path, GOOD, "stages.sft.optimiser.betas=[0.5]")).plain
    assert "stages.0.steps: 7   [" in text
    assert f"[{tmp_path}/r.yaml:4]\n    How many optimiser steps." in text
    assert "stages.0.optimiser.learning_rate: 0.0001" in text
    assert "stages.1.reward: 0.0   [default]" in text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("stages.sft.steps=9", lambda r: stage(r).steps == 9),
        ("stages.0.steps=9", lambda r: stage(r).steps == 9),
        ("stages.judge.tags.a=no", lambda r: stage(r, 1).tags == {"a": "no"}),
        ("stages.sft.data=b.jsonl", lambda r: stage(r).data == [Source(path="b.jsonl")]),
        ("stages.sft.data.0.rows=4", lambda r: stage(r).data == [Source(path="a.jsonl", rows=4)]),
        ("stages.sft.data.0=b.jsonl", lambda r: stage(r).data == [Source(path="b.jsonl")]),
        ("stages.sft.data=[b, {path: c, rows: 1}]", lambda r: stage(r).data[1].rows == 1),
        ("extra.adam.learning_rate=1e-5", lambda r: r.value.extra["adam"].learning_rate == 1e-5),
        ("note=", lambda r: r.value.note is None),
        ("note=a=b", lambda r: r.value.note == "a=b"),
        ("flag=yes", lambda r: r.value.flag is True),
    ],
)
def test_override(tmp_path: Path, override: str, value: Any) -> None:
    assert value(load(tmp_path, GOOD, override))


def test_override_below_a_bare_value(tmp_path: Path) -> None:
    text = "name: demo\nstages:\n  - {kind: sft, data: a.jsonl}\n  - {kind: reward, tags: {a: b}}\n"
    for override in ("stages.sft.data.rows=3", "stages.sft.data.0.rows=3"):
        found = load(tmp_path, text, override)
        assert stage(found).data == [Source(path="a.jsonl", rows=3)]
        assert found.origins["stages", 0, "data", 0, "path"].endswith("r.yaml:3")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps", "is not key=value"),
        ("stages.dpo.steps=1", "there is no item 'dpo'. Items: sft, judge"),
        ("stages.7.steps=1", "stages: there is no item '7'"),
        ("name.sub=1", "name is no mapping"),
        ("note=[", "not valid YAML"),
        ("note=!!python/object:os.system {}", "not valid YAML"),
        ("stages.sft.optimizer.learning_rate=1", "unknown key `optimizer` in stages.sft; did you mean `opt"),
        ("stages.sft.steps=many", "stages.sft.steps: expected a valid integer (given: 'many')"),
    ],
)
def test_bad_override(tmp_path: Path, override: str, said: str) -> None:
    (problem,) = problems(tmp_path, GOOD, override)
    assert problem.startswith("command line: ")
    assert said in problem


def test_ambiguous_item_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "name: x\nstages: [{kind: sft}, {kind: sft}]\n", "stages.sft.steps=1")
    assert "stages has several items 'sft'; use a number: 0, 1" in problem


def test_all_problems_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """\
name: demo
stages:
  - kind: sft
    steps: -1
    optimiser: {learningrate: 1}
    data:
      - rows: some
  - kind: reward
    reward: [1]
    reward: 2
    tag: 1
  - kind: rewrad
  - steps: 3
flags: true
"""
    assert problems(tmp_path, text, "stages.nope.x=1") == [
        "r.yaml:10: the key 'reward' stands twice (first on line 9).",
        "command line: stages: there is no item 'nope'. Items: sft, reward, rewrad.",
        "r.yaml:4: stages.sft.steps: expected greater than 0 (given: -1).",
        "r.yaml:7: stages.sft.data.0.path: Field required.",
        "r.yaml:7: stages.sft.data.0.rows: expected a valid integer (given: 'some').",
        "r.yaml:5: unknown key `learningrate` in stages.sft.optimiser; did you mean `learning_rate`?",
        "r.yaml:11: unknown key `tag` in stages.reward; did you mean `tags`?",
        "r.yaml:12: unknown kind `rewrad` in stages.rewrad; did you mean `reward`?",
        "r.yaml:13: `kind` is missing in stages.3; one of sft, reward.",
        "r.yaml:14: unknown key `flags`; did you mean `flag`?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "r.yaml:1: not valid YAML"),
        ("name: !!python/name:os.system ''", "r.yaml:1: not valid YAML"),
        ("a: &a [*a]", "contains itself"),
        ("- 1", "a mapping of settings is needed"),
        ("", "a mapping of settings is needed"),
        ("? [a]\n: 1", "not valid YAML"),
        ("name: \x00", "not valid YAML"),
        ("name: 3", "r.yaml:1: name: expected a valid string (given: 3)"),
        ("note: x", "name: Field required"),
    ],
)
def test_broken_file(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, text)[0]


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(UserError) as caught:
        load_settings(Plan, tmp_path / "recpe.yaml")
    assert "recipe.yaml" in caught.value.way_out


def test_merge_keys_and_anchors(tmp_path: Path) -> None:
    text = """\
name: demo
stages:
  - &base
    kind: sft
    steps: 3
    optimiser: &adam {learning_rate: 1e-2}
  - <<: *base
    steps: 4
    optimiser: {<<: *adam, betas: [0.5]}
"""
    found = load(tmp_path, text)
    assert stage(found).steps == 3
    assert stage(found, 1) == Warm(steps=4, optimiser=Optimiser(learning_rate=1e-2, betas=[0.5]))
    assert found.origins["stages", 1, "steps"].endswith(":8")


def test_plain_values_are_those_of_yaml_1_2() -> None:
    text = "[1e-4, 1.5E3, 1_000, .inf, no, 010, 1:30, 2026-01-01, 0x1f, true, ~, '1e-4', .5, -3]"
    expected = [1e-4, 1500.0, 1000, float("inf"), "no", "010", "1:30", "2026-01-01", 31, True, None]
    found = parse_value(text)
    assert found == [*expected, "1e-4", 0.5, -3]
    assert [type(v) for v in found[:3]] == [float, float, int]


def test_mapping_from_python_is_not_changed_and_named_given() -> None:
    source = {"name": "x", "stages": [{"kind": "sft", "data": "a"}]}
    found = load_settings(Plan, source, ["stages.sft.data.rows=2"])
    assert source == {"name": "x", "stages": [{"kind": "sft", "data": "a"}]}
    assert found.origins["stages", 0, "data", 0, "path"] == "given"
    with pytest.raises(UserError, match="recipe: unknown key `nam`"):
        load_settings(Plan, {"nam": "x"})


def test_differences_name_the_override_key() -> None:
    old, new = parse_value(GOOD), parse_value(GOOD)
    new["stages"][0]["steps"] = 8
    new["note"] = None
    assert differences(old, new) == ["stages.sft.steps (7 -> 8)", "note (not set -> None)"]
    assert differences(old, old) == []


words = st.one_of(
    st.text(), st.sampled_from(["1e-4", "no", "0o17", "010", "~", "<<", "=", "1_0", "", "a: b"])
)
floats = st.floats(allow_nan=False)
optimisers = st.builds(Optimiser, learning_rate=floats, betas=st.lists(floats, max_size=3))
stages = st.one_of(
    st.builds(
        Warm,
        name=words,
        steps=st.integers(min_value=1),
        data=st.lists(st.builds(Source, path=words, rows=st.integers()), max_size=2),
        optimiser=optimisers,
    ),
    st.builds(Reward, name=words, reward=floats, tags=st.dictionaries(words, words, max_size=3)),
)
plans = st.builds(
    Plan,
    name=words,
    note=st.none() | words,
    flag=st.booleans(),
    extra=st.dictionaries(words, optimisers, max_size=2),
    stages=st.lists(stages, max_size=3),
)


@patient
@given(plans)
def test_dumped_yaml_loads_back_to_an_equal_model(plan: Plan) -> None:
    assert load_settings(Plan, parse_value(dump_yaml(plan))).value == plan


@patient
@given(st.recursive(st.none() | st.booleans() | st.integers() | floats | words, st.lists, max_leaves=8))
def test_dump_and_parse_are_inverse(value: Any) -> None:
    assert parse_value(dump(value)) == value
