"""Ensembles and heads: trained by a stage, used as a reward by name, with members that really differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import dump_yaml, load_settings
from rewardlab.core.types import Prompt, Rollout, Sequence
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.run import Run

PAIRS = {"source": "world", "rows": 96}
HELD_OUT = {"source": "world", "rows": 64, "split": "heldout"}
STEADY = {"schedule": "constant", "warmup_fraction": 0.0, "learning_rate": 2.0e-3}
ENSEMBLE: dict[str, Any] = {
    "kind": "reward_ensemble",
    "name": "many",
    "members": 2,
    "data": PAIRS,
    "held_out": HELD_OUT,
    "steps": 4,
    "aggregate": "mean_minus_std",
    "optimiser": STEADY,
}
HEADS: dict[str, Any] = {
    "kind": "reward_heads",
    "name": "heads",
    "data": PAIRS,
    "held_out": HELD_OUT,
    "steps": 100,
}
GRPO: dict[str, Any] = {
    "kind": "grpo",
    "data": {"source": "world", "rows": 8},
    "steps": 1,
    "prompts_per_step": 2,
    "samples_per_prompt": 2,
    "max_new_tokens": 8,
    "train_truncated": True,
}


def recipe(*stages: dict[str, Any]) -> Recipe:
    given = {"name": "r", "model": "embedded:advice-base", "world": {}, "stages": list(stages)}
    return load_settings(Recipe, given).value


def run(folder: Path, *stages: dict[str, Any]) -> Context:
    """The run's context, once it is done."""
    made = recipe(*stages)
    run_recipe(made, folder)
    return Context(made, Run.open(folder, dump_yaml(made), seed=made.seed))


def answers(context: Context) -> list[Rollout]:
    """Four answers of every quality to prompts of the world."""
    pairs = context.world.pairs(2, split="heldout", seed=5)
    return [
        Rollout(
            Prompt(p.prompt, id=p.id, meta=p.meta, place=p.place), Sequence((0,), (False,)), m[0].content, i
        )
        for i, p in enumerate(pairs)
        for m in (p.chosen, p.rejected)
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """One run with every kind, each used by GRPO at once."""
    two_heads = {**HEADS, "name": "two", "objective": "disentangled"}
    users = [{**GRPO, "name": f"use-{name}", "reward": name} for name in ("many", "heads", "two")]
    return run(tmp_path_factory.mktemp("several") / "run", ENSEMBLE, HEADS, two_heads, *users)


def weight_of(context: Context, stage: str) -> torch.Tensor:
    return load_file(context.run.stage(stage).output / "model.safetensors")["score.weight"]


def test_members_differ_and_the_value_is_theirs(trained: Context) -> None:
    assert not torch.equal(weight_of(trained, "many.member-0"), weight_of(trained, "many.member-1"))
    for score in trained.reward("many").score(answers(trained)):
        one, two = score.parts["many.0"], score.parts["many.1"]
        assert score.uncertainty == pytest.approx(abs(one - two) / 2**0.5)
        assert score.value == pytest.approx((one + two) / 2 - (score.uncertainty or 0))
    alone = trained.reward(str(trained.run.stage("many.member-0").output))
    assert [s.value for s in alone.score(answers(trained))] == pytest.approx(
        [s.parts["many.0"] for s in trained.reward("many").score(answers(trained))]
    )


def test_heads_disagree_and_are_used_by_name(trained: Context) -> None:
    for score in trained.reward("heads").score(answers(trained)):
        assert len([k for k in score.parts if k.startswith("head_")]) == 8
        assert (score.uncertainty or 0) > 0
    for score in trained.reward("two").score(answers(trained)):
        assert score.value == score.parts["quality"]
    (line,) = trained.run.stage("heads").read_metrics()
    assert line["loss"] < 0.6  # below log 2: something of the pairs was learned
    assert 0 <= line["eval_accuracy"] <= 1
    assert line["eval_head_std"] > 0


def test_the_length_head_takes_the_length(trained: Context) -> None:
    (line,) = trained.run.stage("two").read_metrics()
    assert line["eval_verbosity_length_correlation"] > 0.5
    assert abs(line["eval_quality_length_correlation"]) < line["eval_verbosity_length_correlation"]


def test_without_variation_members_are_one(tmp_path: Path) -> None:
    """The control: it is `vary` that makes members differ."""
    context = run(tmp_path / "run", {**ENSEMBLE, "vary": [], "steps": 2})
    assert torch.equal(weight_of(context, "many.member-0"), weight_of(context, "many.member-1"))
    assert all(s.uncertainty == 0 for s in context.reward("many").score(answers(context)))


def test_a_finished_member_is_not_trained_again(tmp_path: Path) -> None:
    """As after a crash between members: the ensemble goes on with the first that is not done."""
    stage = {**ENSEMBLE, "steps": 2, "vary": ["data"]}
    context = run(tmp_path / "run", stage)
    before = weight_of(context, "many.member-1")
    (context.run.stage("many").folder / "done.json").unlink()
    (context.run.stage("many.member-1").folder / "done.json").unlink()
    first = context.run.stage("many.member-0").output / "model.safetensors"
    written = first.stat().st_mtime_ns
    context.recipe.stages[0].run(context)
    assert first.stat().st_mtime_ns == written
    assert torch.equal(weight_of(context, "many.member-1"), before)


def test_references_are_checked_before_anything_runs() -> None:
    with pytest.raises(UserError, match="inits"):
        recipe({**ENSEMBLE, "inits": ["base", "bass"]})
