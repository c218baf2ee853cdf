"""The advice world: splits, determinism, writers, and what its rows carry."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Prompt
from rewardlab.worlds.advice import AdviceSettings, AdviceWorld, LabellerSettings, WriterSettings
from rewardlab.worlds.advice.language import parse
from rewardlab.worlds.advice.topics import CATALOGUE, make_topics
from rewardlab.worlds.advice.writers import write

WORLD = AdviceWorld()


def answer(example: Example) -> str:
    return example.messages[-1].content


def gold(example: Example) -> float:
    value = WORLD.gold.score_text(answer(example), example.meta).value
    assert value is not None
    return value


def test_sixty_topics_in_two_disjoint_splits_that_the_seed_chooses() -> None:
    topics = WORLD.topics
    assert len(topics.train) == 48
    assert len(topics.heldout) == 12
    assert len(set(topics.all)) == 60
    other = AdviceWorld(AdviceSettings(seed=1)).topics
    assert set(other.heldout) != set(topics.heldout)
    shared = set(other.all) & set(topics.all)
    assert any(other.facts[t] != topics.facts[t] for t in shared)


@given(st.integers(0, 5), st.sampled_from(["train", "heldout"]))
@settings(max_examples=10)
def test_rows_stay_in_their_split(seed: int, split: str) -> None:
    allowed = set(WORLD.topics.train if split == "train" else WORLD.topics.heldout)
    rows = [
        *WORLD.prompts(30, split=split, seed=seed),
        *WORLD.demonstrations(30, split=split, seed=seed),
        *WORLD.pairs(30, split=split, seed=seed),
    ]
    assert {r.meta["topic"] for r in rows} <= allowed


def test_base_text_teaches_every_fact_and_shows_every_behaviour() -> None:
    base = WORLD.base_text(6000, seed=0)
    assert {e.meta["topic"] for e in base} == set(WORLD.topics.all)
    said: dict[tuple[str, str], dict[str, int]] = {}
    kinds = set()
    for example in base:
        for sentence in parse(answer(example)):
            kinds.add(sentence.kind)
            if sentence.kind == "fact":
                counts = said.setdefault((example.meta["topic"], sentence.aspect), {})
                counts[sentence.value] = counts.get(sentence.value, 0) + 1
    assert kinds == {"fact", "hedge", "filler", "opener", "closer"}
    for topic in WORLD.topics.all:
        for aspect, value in WORLD.topics.facts[topic].items():
            counts = said[topic, aspect]
            assert counts[value] / sum(counts.values()) > 0.6, (topic, aspect, counts)


def test_demonstrations_are_better_than_base_text_and_not_perfect() -> None:
    base = mean(gold(e) for e in WORLD.base_text(2000, seed=1))
    shown = mean(gold(e) for e in WORLD.demonstrations(2000, split="train", seed=1))
    assert base + 0.15 < shown < 0.95


def test_the_same_arguments_give_the_same_rows_and_another_seed_others() -> None:
    again = AdviceWorld(AdviceSettings())
    for make in ("prompts", "demonstrations", "pairs"):
        one = getattr(WORLD, make)(40, split="train", seed=4)
        assert one == getattr(again, make)(40, split="train", seed=4)
        assert one[:15] == getattr(again, make)(15, split="train", seed=4)
        assert one != getattr(again, make)(40, split="train", seed=5)
    assert WORLD.base_text(40, seed=4) == again.base_text(40, seed=4)


def test_another_process_makes_the_same_text() -> None:
    code = (
        "from rewardlab.worlds.advice import AdviceWorld as W; "
        "print([p.id for p in W().pairs(20, split='train', seed=2)])"
    )
    environment = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == str([p.id for p in WORLD.pairs(20, split="train", seed=2)])


def test_prompts_do_not_repeat_until_all_were_asked() -> None:
    small = AdviceWorld(AdviceSettings(topics=4, heldout_topics=2, max_aspects=2))
    possible = 2 * (8 + 28) * 6
    texts = [p.messages[0].content for p in small.prompts(2 * possible, split="train", seed=0)]
    assert len(set(texts[:possible])) == possible
    assert sorted(texts[:possible]) == sorted(texts[possible:])
    large = WORLD.prompts(5000, split="train", seed=0)
    assert len({p.id for p in large}) == 5000
    assert {len(p.meta["aspects"]) for p in large} == {1, 2, 3, 4}


def test_a_prompt_names_its_topic_and_exactly_its_aspects() -> None:
    for prompt in WORLD.prompts(300, split="heldout", seed=8):
        words = prompt.messages[0].content.translate(str.maketrans("", "", ",.?")).split()
        named = [a for a in WORLD.topics.facts[prompt.meta["topic"]] if a in words]
        assert named == prompt.meta["aspects"]
        assert prompt.meta["topic"] in " ".join(words)
        assert prompt.place.startswith("advice:heldout:")


def test_pairs_carry_what_an_audit_needs_and_survive_json() -> None:
    pairs = WORLD.pairs(200, split="train", seed=3)
    for pair in pairs:
        assert pair.label == 1.0
        assert pair.chosen != pair.rejected
        assert json.loads(json.dumps(pair.meta)) == pair.meta
        prompt = Prompt(pair.prompt, meta=pair.meta)
        chosen, rejected = pair.chosen[0].content, pair.rejected[0].content
        assert WORLD.preference(prompt, chosen, rejected) == pair.meta["p_chosen"]
        assert WORLD.gold.score_text(rejected, pair.meta).value == pair.meta["gold_rejected"]
        assert pair.meta["words_chosen"] == len(chosen.split())
    assert len({p.id for p in pairs}) == 200


def test_labels_are_drawn_with_the_stated_probability_over_many_pairs() -> None:
    pairs = WORLD.pairs(5000, split="train", seed=6)
    # At every level of certainty max(p, 1 - p), the favourite wins that often.
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        level = [
            p.meta["p_chosen"] for p in pairs if low <= max(p.meta["p_chosen"], 1 - p.meta["p_chosen"]) < high
        ]
        wins, expected = mean(p > 0.5 for p in level), mean(max(p, 1 - p) for p in level)
        assert abs(wins - expected) < 4 * math.sqrt(0.25 / len(level))


def test_labeller_knobs_relabel_the_same_answers() -> None:
    fair = AdviceWorld(
        AdviceSettings(labeller=LabellerSettings(length_bias=0, opener_bias=0, noise=0, flip=0))
    )
    for one, other in zip(
        WORLD.pairs(300, split="train", seed=9), fair.pairs(300, split="train", seed=9), strict=True
    ):
        assert {one.chosen, one.rejected} == {other.chosen, other.rejected}
        assert other.meta["gold_chosen"] >= other.meta["gold_rejected"]


def test_behaviour_of_a_bad_and_of_the_best_answer() -> None:
    prompt = WORLD.prompts(1, split="train", seed=0)[0]
    bad = "That is a great question! Blah blah. Many people enjoy doing this. Would you like more detail?"
    found = WORLD.behaviour(bad, prompt)
    assert found["has_opener"] == found["has_closer"] == found["fillers"] == found["noise"] == 1
    assert found["format_valid"] == 0
    assert found["words"] == 17
    best = WORLD.behaviour(WORLD.best_answer(prompt), prompt)
    assert best["format_valid"] == 1
    assert best["wrong_facts"] == best["unrequested_facts"] == best["has_opener"] == best["noise"] == 0
    assert best["right_facts"] == len(prompt.meta["aspects"])
    assert WORLD.behaviour("", prompt)["format_valid"] == 0


@given(st.integers(0, 10_000), st.lists(st.floats(0, 1), min_size=8, max_size=8))
@settings(max_examples=50)
def test_any_writer_writes_readable_non_empty_answers(seed: int, knobs: list[float]) -> None:
    names = ("unrequested", "unrequested_wrong", "filler", "opener", "closer", "repeat", "shuffle", "right")
    writer = WriterSettings(**dict(zip(names, knobs, strict=True)) | {"wrong": 0, "hedge": 0})
    topic = WORLD.topics.all[seed % 60]
    sentences = write(["time", "risk"], WORLD.topics.facts[topic], writer, random.Random(seed))
    assert sentences
    assert all(s.kind != "noise" for s in sentences)


def test_a_writer_does_what_its_probabilities_say() -> None:
    rng, facts = random.Random(0), WORLD.topics.facts[WORLD.topics.all[0]]
    silent = WriterSettings(right=0, wrong=0, hedge=0, unrequested=0, filler=0, opener=0, closer=0)
    assert [s.kind for s in write(["time"], facts, silent, rng)] == ["filler"]
    perfect = silent.model_copy(update={"right": 1.0, "repeat": 0.0, "shuffle": 0.0})
    told = write(["time", "cost"], facts, perfect, rng)
    assert [(s.aspect, s.value) for s in told] == [(a, facts[a]) for a in ("time", "cost")]
    always_wrong = silent.model_copy(update={"wrong": 1.0, "repeat": 0.0})
    for _ in range(50):
        assert all(s.value != facts[s.aspect] for s in write(["time", "cost"], facts, always_wrong, rng))


def test_wrong_use_is_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match="split 'test'"):
        WORLD.prompts(1, split="test", seed=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="-1 rows"):
        WORLD.prompts(-1, split="train", seed=0)
    with pytest.raises(UserError, match="500 topics"):
        AdviceWorld(AdviceSettings(topics=500))
    with pytest.raises(UserError, match="none to train on"):
        AdviceWorld(AdviceSettings(topics=12, heldout_topics=12))
    with pytest.raises(UserError, match="poet"):
        AdviceWorld(AdviceSettings(pair_mix={"poet": 1.0}))
    with pytest.raises(UserError, match="above 1"):
        WriterSettings(right=0.9, wrong=0.2)
    with pytest.raises(UserError, match="no topic"):
        WORLD.behaviour("hello", Prompt(()))


def test_every_activity_of_the_catalogue_can_be_used_and_is_unique() -> None:
    count = sum(len(things) for things in CATALOGUE.values())
    assert len(set(make_topics(0, count, 1).all)) == count
