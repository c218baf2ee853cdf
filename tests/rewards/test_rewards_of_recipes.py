"""Cycles, regret and weighted heads as recipes write them."""

from __future__ import annotations

from typing import Any

import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Message, Prompt, Rollout, Sequence
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import Recipe
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
