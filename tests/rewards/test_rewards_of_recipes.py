"""Cycles, regret and weighted heads as recipes write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import dump_yaml, load_settings
from rewardlab.core.types import Message, Prompt, Rollout, Sequence
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.run import Run
from rewardlab.rewards.rebuilding import Decoder, by_ngrams, by_reward, by_states

MODEL = "embedded:advice-base"


@pytest.fixture
def context(tmp_path: Any) -> Any:
    def make(rewards: dict[str, Any], **more: Any) -> Context:
        audit = {"kind": "audit", "reward": next(iter(rewards)), "data": {"source": "file.jsonl"}}
        whole = {"name": "r", "model": MODEL, "rewards": rewards, "stages": [audit], **more}
        recipe = load_settings(Recipe, whole).value
        return Context(recipe, Run.open(tmp_path / "run", "x: 1", fresh=True, seed=0))

    return make


def answer(prompt: Prompt, text: str) -> Rollout:
    return Rollout(prompt, Sequence((0,), (False,)), text)


ASKED = Prompt((Message("user", "Describe it."),), meta={"x": "How do I repair lamps?", "topic": "lamps"})


def test_a_cycle_of_a_recipe_decodes_with_a_policy_and_measures_by_ngrams(context: Any) -> None:
    found = context({"c": {"kind": "cycle", "decoder": "base", "instruction": "{answer}", "n": 1}})
    reward = found.reward("c")
    said = answer(ASKED, "What should I know about time to repair lamps?")
    (rebuilt,) = reward.decode([said.text])
    alone, empty = reward.score([said, answer(ASKED, " ")])
    assert rebuilt  # the embedded model answers questions of its world
    assert alone.value == pytest.approx(by_ngrams(1)([ASKED.meta["x"]], [rebuilt])[0])
    assert (empty.value, empty.parts["valid"]) == (0.0, 0.0)
    assert reward.score([said])[0] == alone
    assert "private code" in found.take_warnings()[0]
    same = answer(Prompt(ASKED.messages, meta={"x": rebuilt}), said.text)
    assert reward.score([same])[0].value == 1.0


def test_similarity_by_states_and_by_another_reward(context: Any) -> None:
    rewards = {
        "c": {"kind": "cycle", "decoder": "base", "instruction": "{answer}", "similarity": "embedding"},
        "d": {"kind": "cycle", "decoder": "base", "instruction": "{answer}", "similarity": "match"},
        "match": {"kind": "exact_match", "field": "x", "extract": False},
    }
    found = context(rewards)
    states = by_states(found.policy("base"))
    same, other = states(["repair lamps", "repair lamps"], ["repair lamps", "The cost is ten dollars."])
    assert same == pytest.approx(1.0)
    assert 0 <= other < same
    said = answer(ASKED, "What should I know about time to repair lamps?")
    assert 0 <= found.reward("c").score([said])[0].value <= 1
    match = found.reward("match")
    assert by_reward(match, "x")(["a b", "a b"], ["a b", "a"]) == [1.0, 0.0]
    assert found.reward("d").score([said])[0].value == 0.0


def test_a_cycle_that_cannot_work_is_refused(context: Any) -> None:
    with pytest.raises(UserError, match="did you mean 'match'"):
        context(
            {
                "c": {"kind": "cycle", "decoder": "base", "similarity": "mach"},
                "match": {"kind": "exact_match"},
            }
        )
    with pytest.raises(UserError, match="no earlier stage, reward or folder"):
        context({"c": {"kind": "cycle", "decoder": "nowhere"}})
    with pytest.raises(UserError, match="instruction has the fields"):
        Decoder(None, "no place for it")  # type: ignore[arg-type]


def test_regret_against_the_best_answer_of_the_world(context: Any) -> None:
    found = context({"r": {"kind": "regret", "reward": "gold", "oracle": "world"}}, world={})
    prompts = found.world.prompts(3, split="heldout", seed=0)
    rows = [answer(p, found.world.best_answer(p)) for p in prompts] + [answer(p, "") for p in prompts]
    regret, gold = (found.reward(name).score(rows) for name in ("r", "gold"))
    assert [s.value for s in regret[:3]] == [0.0] * 3
    assert [s.value for s in regret[3:]] == pytest.approx([1 - s.value for s in gold[3:]])
    assert min(s.value for s in regret[3:]) > 0
    length = context({"r": {"kind": "regret", "reward": "length", "oracle": "world"}}, world={})
    assert "no oracle value of this prompt" in length.reward("r").score([answer(ASKED, "x")])[0].reason
    with pytest.raises(UserError, match="needs a `world:` section"):
        context({"r": {"kind": "regret", "reward": "length", "oracle": "world"}}).reward("r")


RATED = {
    **{"kind": "reward_heads", "name": "rated", "objective": "multi_objective", "ratings": ["gold", "words"]},
    **{"data": {"source": "world", "rows": 160}, "steps": 200},
    "held_out": {"source": "world", "rows": 80, "split": "heldout"},
}


@pytest.mark.parametrize("weights", [{"gold": 1.0, "words": -0.02}, None])
def test_heads_on_ratings_weighted_by_hand_or_by_a_gate(weights: Any, tmp_path: Path) -> None:
    stage = {**RATED, "weights": weights, "rank": 2}
    whole = {"name": "r", "model": MODEL, "world": {}, "stages": [stage]}
    recipe = load_settings(Recipe, whole).value
    run_recipe(recipe, tmp_path / "run")
    run = Run.open(tmp_path / "run", dump_yaml(recipe), seed=0)
    found = run.stage("rated").done()["final"]
    assert found["eval_correlation/words"] > 0.5  # the state of the last token knows the answer's length
    context = Context(recipe, run)
    rows = [answer(p, t) for p in context.world.prompts(2, split="heldout", seed=1) for t in ("A.", "B C.")]
    for score in context.reward("rated").score(rows):
        parts = score.parts
        shares = weights or {n: parts[f"gate/{n}"] for n in ("gold", "words")}
        assert score.value == pytest.approx(sum(shares[n] * parts[n] for n in shares))
        assert weights or sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ratings": []}, "go together"),
        ({"objective": "ensemble"}, "go together"),
        ({"weights": {"gold": 1.0}}, "one weight"),
    ],
)
def test_heads_on_ratings_need_ratings_and_their_weights(change: Any, complaint: str) -> None:
    whole = {"name": "r", "model": MODEL, "world": {}, "stages": [{**RATED, **change}]}
    with pytest.raises(UserError, match=complaint):
        load_settings(Recipe, whole)


def test_ratings_that_nobody_gave_or_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    for ratings, complaint in (
        (["charm"], r"no answer is rated for \['charm'\]"),
        (["writer"], "not a number"),
    ):
        whole = {"name": "r", "model": MODEL, "world": {}, "stages": [{**RATED, "ratings": ratings}]}
        with pytest.raises(UserError, match=complaint):
            run_recipe(load_settings(Recipe, whole).value, tmp_path / ratings[0])
