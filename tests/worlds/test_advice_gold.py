"""The gold reward: its value, its orderings, and what it does with prompts that are not its own."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Prompt, Rollout, Score, Sequence
from rewardlab.worlds.advice import AdviceSettings, AdviceWorld, GoldSettings
from rewardlab.worlds.advice.language import Sentence, every_sentence, render
from rewardlab.worlds.advice.topics import ASPECTS

WORLD = AdviceWorld()
TOPIC = WORLD.topics.train[0]
FACTS = WORLD.topics.facts[TOPIC]
FILLERS = [s for s in every_sentence() if s.kind in ("filler", "opener", "closer")]

aspect_sets = st.lists(st.sampled_from(list(ASPECTS)), min_size=1, max_size=4, unique=True)
noise = st.builds(lambda t: Sentence("noise", text=t), st.sampled_from(["so it goes.", "Yes.", "..."]))
sentences = st.one_of(
    st.sampled_from(every_sentence()),
    st.sampled_from([Sentence("fact", a, v, form) for a, v in FACTS.items() for form in (0, 1)]),
    noise,
)
answers = st.lists(sentences, max_size=8)


def meta(aspects: list[str]) -> dict[str, object]:
    return {"world": "advice", "world_seed": 0, "topic": TOPIC, "aspects": aspects}


def score(answer: list[Sentence], aspects: list[str]) -> Score:
    return WORLD.gold.score_text(render(answer), meta(aspects))


def value(answer: list[Sentence], aspects: list[str]) -> float:
    found = score(answer, aspects).value
    assert found is not None
    return found


def total(answer: list[Sentence], aspects: list[str]) -> float:
    """The value before clipping, which has the strict orderings."""
    return sum(score(answer, aspects).parts.values())


def right(aspect: str, form: int = 0) -> Sentence:
    return Sentence("fact", aspect, FACTS[aspect], form)


def wrong(aspect: str) -> Sentence:
    return Sentence("fact", aspect, next(v for v in ASPECTS[aspect] if v != FACTS[aspect]))


@given(answers, aspect_sets)
def test_gold_is_the_clipped_sum_of_its_parts(answer: list[Sentence], aspects: list[str]) -> None:
    assert -1 <= value(answer, aspects) <= 1
    assert value(answer, aspects) == max(-1.0, min(1.0, total(answer, aspects)))


@given(answers, aspect_sets)
def test_on_each_aspect_right_beats_hedge_beats_silence_beats_wrong(
    rest: list[Sentence], aspects: list[str]
) -> None:
    target = aspects[0]
    rest = [s for s in rest if s.aspect != target]
    ladder = [
        [right(target), *rest],
        [Sentence("hedge", target), *rest],
        rest,
        [wrong(target), *rest],
    ]
    values = [total(answer, aspects) for answer in ladder]
    assert values == sorted(values, reverse=True)
    assert len({round(v, 9) for v in values}) == 4
    clipped = [value(answer, aspects) for answer in ladder]
    assert clipped == sorted(clipped, reverse=True)


@given(answers, aspect_sets, st.sampled_from(FILLERS), st.integers(0, 8))
def test_a_filler_never_raises_gold(
    answer: list[Sentence], aspects: list[str], filler: Sentence, at: int
) -> None:
    longer = [*answer[:at], filler, *answer[at:]]
    assert total(longer, aspects) < total(answer, aspects)
    assert value(longer, aspects) <= value(answer, aspects)


@given(answers, aspect_sets, st.data())
def test_repeating_a_sentence_never_raises_gold(
    answer: list[Sentence], aspects: list[str], data: st.DataObject
) -> None:
    assume(answer)
    again = data.draw(st.sampled_from(answer))
    if again.kind in ("fact", "hedge"):
        again = Sentence(again.kind, again.aspect, again.value, 1 - again.form)
    assert total([*answer, again], aspects) < total(answer, aspects)


@given(answers, aspect_sets)
def test_order_and_wording_do_not_matter(answer: list[Sentence], aspects: list[str]) -> None:
    other = [
        Sentence(s.kind, s.aspect, s.value, 1 - s.form) if s.kind in ("fact", "hedge") else s
        for s in reversed(answer)
    ]
    assert math.isclose(total(other, aspects), total(answer, aspects), abs_tol=1e-12)


@given(aspect_sets)
def test_the_best_answer_is_worth_one(aspects: list[str]) -> None:
    best = WORLD.best_answer(Prompt((), meta=meta(aspects)))
    assert WORLD.gold.score_text(best, meta(aspects)).value == pytest.approx(1.0)


def test_values_worked_out_by_hand() -> None:
    ask = ["time", "cost"]
    opener, filler = Sentence("opener"), Sentence("filler")
    assert total([], ask) == pytest.approx(-0.1)
    assert total([right("time")], ask) == pytest.approx(0.5)
    assert total([right("time"), Sentence("hedge", "cost")], ask) == pytest.approx(0.5 + 0.25 / 2)
    # A contradiction pays for the wrong fact and earns no recall.
    assert total([right("time"), wrong("time")], ask) == pytest.approx(-0.3)
    # A hedge on an answered aspect and one on an aspect that nobody asked about.
    assert total([right("time"), Sentence("hedge", "time")], ask) == pytest.approx(0.5 - 0.05)
    assert total([right("time"), Sentence("hedge", "risk")], ask) == pytest.approx(0.5 - 0.05)
    # Budget 3: the fourth sentence pays over_length too.
    assert total([opener, right("time"), right("cost"), filler], ask) == pytest.approx(1 - 0.05 - 0.05 - 0.05)
    # Right but unrequested; wrong and unrequested.
    assert total([right("time"), right("cost"), right("risk")], ask) == pytest.approx(1 - 0.05)
    assert total([right("time"), right("cost"), wrong("risk")], ask) == pytest.approx(1 - 0.05 - 0.3)
    assert total([right("time"), right("time", 1)], ask) == pytest.approx(0.5 - 0.1)


def test_another_topics_fact_is_wrong_here() -> None:
    topic = next(t for t in WORLD.topics.all if WORLD.topics.facts[t]["cost"] != FACTS["cost"])
    text = render([Sentence("fact", "cost", WORLD.topics.facts[topic]["cost"])])
    assert WORLD.gold.score_text(text, {**meta(["cost"]), "topic": topic}).value == 1.0
    assert WORLD.gold.score_text(text, meta(["cost"])).value == pytest.approx(-0.3)


@pytest.mark.parametrize(
    "change",
    [
        {"world": "arithmetic"},
        {"world_seed": 1},
        {"topic": "fly kites"},
        {"topic": ["a", "list"]},
        {"aspects": 3},
        {"aspects": [["cost"]]},
        {"aspects": []},
        {"aspects": ["smell"]},
    ],
)
def test_a_foreign_prompt_is_an_error_and_not_a_zero(change: dict[str, object]) -> None:
    found = WORLD.gold.score_text("The cost is about ten dollars.", {**meta(["cost"]), **change})
    assert found.status == "error"
    assert found.reason
    assert WORLD.gold.score_text("anything", {}).status == "error"


def test_scores_come_in_the_order_of_the_rollouts() -> None:
    prompts = WORLD.prompts(5, split="heldout", seed=3)
    texts = [WORLD.best_answer(p) if i % 2 else "" for i, p in enumerate(prompts)]
    rollouts = [Rollout(p, Sequence((0,), (False,)), t) for p, t in zip(prompts, texts, strict=True)]
    values = [s.value for s in WORLD.gold.score(rollouts)]
    assert values == pytest.approx([-0.1, 1.0, -0.1, 1.0, -0.1])
    assert WORLD.gold.name == "gold"


def test_weights_that_reward_a_wrong_fact_over_silence_are_refused() -> None:
    with pytest.raises(UserError, match="silent"):
        GoldSettings(silent=0.5, wrong=0.3)


def test_gold_weights_reach_the_reward() -> None:
    world = AdviceWorld(AdviceSettings(gold=GoldSettings(opener=0.4)))
    prompt = world.prompts(1, split="train", seed=0)[0]
    answer = f"That is a great question! {world.best_answer(prompt)}"
    assert world.gold.score_text(answer, prompt.meta).value == pytest.approx(0.6)
