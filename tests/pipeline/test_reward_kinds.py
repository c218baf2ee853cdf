"""Every objective of a reward head by name: five steps through a recipe, and the loss on them falls."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import yaml
from scipy import stats

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import dump_yaml, load_settings
from rewardlab.core.types import Message, Prompt, Rollout, Sequence
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.run import Run
from rewardlab.rewards.label_units import in_label_units
from rewardlab.worlds.advice.world import AdviceSettings, AdviceWorld

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
BASE = {"name": "kinds", "model": "embedded:advice-base", "world": {}}
STEADY = {"learning_rate": 1e-3, "schedule": "constant", "warmup_fraction": 0}
POINTWISE: dict[str, dict[str, Any]] = {
    "regression": {},
    "binary": {"edges": [4.5]},
    "ordinal": {"edges": [2.0, 4.0, 5.5]},
}


def finished(folder: Path, given: dict[str, Any]) -> Context:
    """The run's context, once it is done."""
    made = load_settings(Recipe, given).value
    run_recipe(made, folder)
    return Context(made, Run.open(folder, dump_yaml(made), seed=made.seed))


def train(folder: Path, rows: list[dict[str, Any]] | None, stage: dict[str, Any], **data: Any) -> Context:
    """A run of five steps on rows of a file, or on the world's."""
    source: dict[str, Any] = {"source": "world", "rows": 32, "split": "train"}
    if rows is not None:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"source": "rows.jsonl"}
    stage = {"steps": 5, "optimiser": STEADY, "name": "it", **stage, "data": {**source, **data}}
    return finished(folder / "run", {**BASE, "data_root": str(folder), "stages": [stage]})


def metrics(context: Context) -> list[dict[str, float]]:
    return context.run.stage("it").read_metrics()


def scores(context: Context, rows: list[dict[str, Any]], reward: str = "it") -> list[float]:
    """What a reward says of the rows; a trained stage is one by its name."""
    asked = [Prompt((Message("user", row["prompt"]),)) for row in rows]
    unsampled = Sequence((0,), (False,))
    found = context.reward(reward).score(
        [Rollout(prompt, unsampled, row["completion"]) for prompt, row in zip(asked, rows, strict=True)]
    )
    return [s.value for s in found if s.value is not None]


@pytest.fixture(scope="module")
def rated() -> list[dict[str, Any]]:
    """The world's noisy ratings as rows of a file."""
    return [
        {"prompt": e.messages[0].content, "completion": e.messages[-1].content, "stars": e.meta["label"]}
        for e in AdviceWorld().ratings(32, split="train", seed=0)
    ]


@pytest.mark.parametrize("head", POINTWISE)
def test_every_head_learns_its_answers(tmp_path: Path, rated: list[dict[str, Any]], head: str) -> None:
    """One fixed step of all rows: the loss on them falls, and the reward by name ranks them as they were."""
    stage = {"kind": "pointwise_reward", "head": head, "answers_per_step": 32, **POINTWISE[head]}
    held_out = {"source": "world", "rows": 16, "split": "heldout"}
    context = train(tmp_path, rated, {**stage, "held_out": held_out}, columns={"label": "stars"})
    lines = metrics(context)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["skipped_updates"] == 0
    assert -1 <= lines[-1]["eval_rank_correlation"] <= 1
    found, stars = scores(context, rated), [row["stars"] for row in rated]
    assert stats.spearmanr(found, stars).statistic > 0.3
    if head == "regression":  # the unit of the labels, not deviations from their mean
        assert fmean(found) == pytest.approx(fmean(stars), abs=0.5)
        before = pstdev(stars) * 2**0.5
        assert lines[-1]["error"] < before
    if head == "ordinal":  # the expected grade of four
        assert all(0 <= x <= 3 for x in found)
        grades = [sum(edge <= x for edge in stage["edges"]) for x in stars]
        assert fmean(found) == pytest.approx(fmean(grades), abs=0.5)


@pytest.mark.parametrize("head", POINTWISE)
def test_the_world_rates_answers(tmp_path: Path, head: str) -> None:
    stage = {"kind": "pointwise_reward", "head": head, "answers_per_step": 32, **POINTWISE[head]}
    lines = metrics(train(tmp_path, None, {**stage, "lora": {"rank": 4}}))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_ratings_are_the_labellers() -> None:
    """One world, two tastes: the same answers, other ratings; without bias and noise a rating is the gold."""
    fair = {"gold_scale": 2.0, "length_bias": 0.0, "opener_bias": 0.0, "noise": 0.0}
    biased, unbiased = AdviceWorld(), AdviceWorld(AdviceSettings.model_validate({"labeller": fair}))
    rows, plain = (w.ratings(20, split="train", seed=1) for w in (biased, unbiased))
    assert [r.messages for r in rows] == [r.messages for r in plain]
    assert all(r.meta["label"] == 2 * r.meta["gold"] for r in plain)
    assert all(r.meta["label"] != 2 * r.meta["gold"] for r in rows)
    assert biased.ratings(5, split="train", seed=1) == rows[:5]


def test_expected_grades_and_labels_by_hand() -> None:
    regression = in_label_units({"head": "regression", "mean": 3.0, "sd": 2.0})
    assert [regression(s) for s in (-1.0, 0.0, 1.5)] == [1.0, 3.0, 6.0]
    ordinal = in_label_units({"head": "ordinal", "lowest": 1, "cutpoints": [-1.0, 0.5]})
    share = [1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(0.5))]  # P(grade > 1), P(grade > 2) at s = 0
    by_hand = 1 * (1 - share[0]) + 2 * (share[0] - share[1]) + 3 * share[1]
    assert ordinal(0.0) == pytest.approx(by_hand)
    assert (ordinal(-1e4), ordinal(1e4)) == (1.0, 3.0)
    assert in_label_units({"head": "binary"})(-2.5) == -2.5


def answered(labels: list[object]) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {i}?", "completion": f"Answer {i}.", "label": y} for i, y in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("labels", "stage", "problem"),
    [
        ([1, "good"], {}, r"rows.jsonl:2: `label` is 'good', not a number"),
        ([1, float("nan")], {}, r"rows.jsonl:2: `label` is nan"),
        ([0, 3], {"head": "binary"}, r"rows.jsonl:2: `label` is 3, not a probability"),
        ([0, 1.5], {"head": "ordinal"}, r"rows.jsonl:2: `label` is 1.5, not a whole number"),
        ([2, 2], {}, "all 2 training labels are 2"),
        ([0, 5000], {"head": "ordinal"}, "from 0 to 5000"),
        ([0, 1], {"head": "binary", "edges": [0.2, 0.5]}, "takes one of `edges`"),
        ([0, 1], {"edges": [1, 0]}, "increase"),
    ],
)
def test_bad_labels_are_refused(
    tmp_path: Path, labels: list[object], stage: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError) as refused:
        train(tmp_path, answered(labels), {"kind": "pointwise_reward", **stage})
    assert re.search(problem, str(refused.value), re.DOTALL)


def test_whole_grades_need_no_edges(tmp_path: Path) -> None:
    """Stars from 2 to 5 without a 4: the empty grade has its place, and true and false are labels too."""
    stage = {"kind": "pointwise_reward", "head": "ordinal", "answers_per_step": 4}
    context = train(tmp_path, answered([2, 2, 3, 5]), stage)
    facts = json.loads((context.run.stage("it").output / "reward.json").read_text())["labels"]
    assert facts["lowest"] == 2
    assert facts["cutpoints"] == pytest.approx([math.log(2.5 / 3.5), math.log(4 / 2), math.log(4.5 / 1.5)])
    (tmp_path / "verdicts").mkdir()
    verdicts = answered([True, True, 0.9, False])
    stage = {"kind": "pointwise_reward", "head": "binary", "answers_per_step": 4}
    lines = metrics(train(tmp_path / "verdicts", verdicts, stage))
    assert lines[-1]["loss"] < lines[0]["loss"]


def pairs(margin: float | None, label: float = 1.0) -> list[dict[str, Any]]:
    rows = []
    for p in AdviceWorld().pairs(12, split="train", seed=0):
        row = {"prompt": p.prompt[0].content, "chosen": p.chosen[0].content, "label": label}
        row |= {"rejected": p.rejected[0].content} | ({} if margin is None else {"margin": margin})
        rows.append(row)
    return rows


REWARD = {"kind": "reward", "pairs_per_step": 12}


@pytest.mark.parametrize(
    ("label", "stage"),
    [
        (1.0, {"centring": 0.0}),
        (0.9, {"centring": 0.0}),
        (1.0, {"centring": 0.5}),
        (1.0, {"margin_scale": 2.0}),
        (1.0, {"smoothing_rate": 0.2}),
    ],
    ids=["hard", "soft", "centring", "margin", "smoothing"],
)
def test_every_form_of_bradley_terry_learns_its_pairs(
    tmp_path: Path, label: float, stage: dict[str, Any]
) -> None:
    lines = metrics(train(tmp_path, pairs(0.5, label), {**REWARD, **stage}))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["accuracy"] > max(0.5, lines[0]["accuracy"] - 1e-9)
    assert ("mean_label" in lines[-1]) == ("smoothing_rate" in stage)
    if "smoothing_rate" in stage:  # every step is an epoch here
        means = [line["mean_label"] for line in lines]
        assert means[0] == 1
        assert means == sorted(means, reverse=True)


def test_margins_are_scaled_or_left_out(tmp_path: Path) -> None:
    def first(name: str, margin: float | None, **stage: Any) -> float:
        (tmp_path / name).mkdir()
        return metrics(train(tmp_path / name, pairs(margin), {**REWARD, "steps": 1, **stage}))[0]["bt"]

    bare = first("bare", None)
    assert first("left-out", 0.5, margin_scale=0.0) == bare
    assert first("as-given", 1.0) == first("doubled", 0.5, margin_scale=2.0) > bare
    with pytest.raises(UserError, match="no training pair has a `margin`"):
        first("missing", None, margin_scale=2.0)


def test_the_page_trains_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two recipes of the page run, and the trained model is asked in the words of its training."""
    monkeypatch.chdir(tmp_path)
    (made,) = re.findall(r"```python\n(import json.*?)```", PAGE, re.DOTALL)
    rated_, asked = re.findall(r"```yaml\n(name:.*?)```", PAGE, re.DOTALL)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(None)))
    exec(compile(made, "rewards.md", "exec"), {})
    replies = [json.loads(line)["completion"] for line in Path("yes_no.jsonl").read_text().splitlines()]
    assert replies == ["yes", "no"] * 12
    recipe = yaml.safe_load(asked)
    recipe["rewards"]["before"] = {**recipe["rewards"]["asked"], "model": "base"}
    context = finished(tmp_path / "asked", recipe)
    lines = context.run.stage("sft").read_metrics()
    assert lines[-1]["loss"] < lines[0]["loss"]
    row = {"prompt": "How do I bake bread?", "completion": "Slowly."}
    (untrained,), (trained,) = scores(context, [row], "before"), scores(context, [row], "asked")
    assert untrained != trained
    context = finished(tmp_path / "rated", yaml.safe_load(rated_))
    for name in ("rating", "good", "grade"):
        lines = context.run.stage(name).read_metrics()
        assert len(lines) == 5
