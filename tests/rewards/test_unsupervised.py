"""Rewards without labels: majorities, cycles, regret, diversity."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.rewards.cycle import CycleConsistency, Regret, RegretSettings
from rewardlab.rewards.diversity import (
    Diversity,
    DiversitySettings,
    QualityDiversity,
    StateDistances,
    class_share,
    classes,
    distinct,
    ngram_distances,
    novelty,
)
from rewardlab.rewards.majority import MajoritySettings, MajorityVote, whole_text
from support import tiny_policy

WORDS = st.lists(st.text("ab ", max_size=8), min_size=2, max_size=6)


def answer(text: str, group: int = 0, **meta: object) -> Rollout:
    prompt = Prompt((Message("user", f"question {group}"),), meta=meta, place=f"a.jsonl:{group}")
    return Rollout(prompt, Sequence((0,), (False,)), text, group)


class Length:
    name = "length"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score.abstain("empty") if not r.text else Score(float(len(r.text))) for r in rollouts]


class Finder:
    def reward(self, name: str) -> Length:
        return Length()

    def policy(self, name: str) -> Engine:
        return Engine(tiny_policy())


def test_the_majority_by_group() -> None:
    texts = ["so #### 3", "#### 3.0", "#### 4", "3 or 4"]
    rows = [answer(t) for t in texts] + [answer("#### 4", 1), answer("#### 4", 1)]
    scores = MajorityVote("m").score(rows)
    assert [s.value for s in scores] == [1, 1, 0, 0, 1, 1]
    assert scores[0].parts["agreement"] == pytest.approx(2 / 3)
    none = MajorityVote("m").score([answer("no result"), answer("#### 1"), answer("#### 1", 1)])
    assert [s.status for s in none] == ["abstain"] * 3
    assert "consensus" in MajorityVote("m").warning


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_a_tie_is_drawn_from_what_is_there_and_not_from_its_order(texts: list[str], random: object) -> None:
    reward = MajoritySettings(result="text", seed=3).build("m", Finder())
    values = {t: s.value for t, s in zip(texts, reward.score([answer(t) for t in texts]), strict=True)}
    random.shuffle(texts)  # type: ignore[attr-defined]
    assert {
        t: s.value for t, s in zip(texts, reward.score([answer(t) for t in texts]), strict=True)
    } == values
    assert sum(v == 1 for v in values.values()) == 1


def test_ties_are_broken_both_ways() -> None:
    winners = Counter()
    for seed in range(200):
        scores = MajorityVote("m", whole_text, seed=seed).score([answer("A  b"), answer("c")])
        winners["first" if scores[0].value else "second"] += 1
    assert abs(winners["first"] - 100) < 4 * 50**0.5


def parsed(texts: list[str]) -> list[float | None]:
    return [float(t) if t.isdigit() else None for t in texts]


def near(a: list[float], b: list[float]) -> list[float]:
    return [1 - abs(x - y) / 10 for x, y in zip(a, b, strict=True)]


def test_a_cycle_pays_what_can_be_rebuilt() -> None:
    rows = [answer("5", x=5.0), answer("7", x=5.0), answer("five", x=5.0), answer("5")]
    scores = CycleConsistency("c", parsed, near).score(rows)
    assert [s.value for s in scores] == [1.0, pytest.approx(0.8), 0.0, None]
    assert [s.parts.get("valid") for s in scores] == [1.0, 1.0, 0.0, None]
    assert (scores[3].status, "a.jsonl:0" in scores[3].reason) == ("error", True)
    broken = CycleConsistency("c", parsed, lambda a, b: [float("nan")] * len(a)).score(rows[:1])
    assert broken[0].status == "error"


def test_regret_is_measured_from_the_best_that_is_known() -> None:
    rows = [
        answer("ab", oracle=["abcd", "a", ""]),
        answer("ab", oracle=7.5),
        answer("abcdef", oracle="abcd"),
        answer("", oracle="abcd"),
        answer("ab"),
    ]
    scores = RegretSettings(reward="length").build("r", Finder()).score(rows)
    assert [s.value for s in scores] == [2.0, 5.5, -2.0, None, None]
    assert [s.status for s in scores[3:]] == ["abstain", "error"]
    assert scores[0].parts == {"r": 2.0, "value": 2.0, "best": 4.0}
    assert Regret("r", Length()).score(rows[:1]) == scores[:1]


def test_distinct_and_novelty_by_hand() -> None:
    assert distinct("a b a b a", 2) == 0.5
    assert distinct("a", 2) == 1.0
    assert distinct("", 1) == 0.0
    assert novelty(["a b c", "A B d", ""], 1) == pytest.approx([1 / 3, 1 / 3, 0])
    assert ngram_distances(["a b", "a c", ""], 1)[0].tolist() == pytest.approx([0, 2 / 3, 1])


def test_classes_are_transitive() -> None:
    distances = np.array([[0, 0.2, 0.9, 0.9], [0.2, 0, 0.2, 0.9], [0.9, 0.2, 0, 0.9], [0.9, 0.9, 0.9, 0]])
    assert len(set(classes(distances, 0.5))) == 2
    assert class_share(distances, 0.5) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


@settings(deadline=None)
@given(
    WORDS,
    st.sampled_from(["distinct", "novelty", "spread", "classes"]),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_diversity_lies_in_the_unit_interval_and_moves_with_the_answers(
    texts: list[str], measure: str, n: int, random: object
) -> None:
    reward = Diversity("d", measure, n=n)
    values = [s.value or 0.0 for s in reward.score([answer(t) for t in texts])]
    assert all(-1e-9 <= v <= 1 + 1e-9 for v in values)
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = [answer("other group", 1), *(answer(texts[i]) for i in order)]
    moved = [s.value or 0.0 for s in reward.score(rows)[1:]]
    assert moved == pytest.approx([values[i] for i in order])


def test_copies_have_no_diversity_and_one_answer_no_opinion() -> None:
    for measure in ("novelty", "spread", "classes"):
        scores = Diversity("d", measure).score([answer("a b"), answer("a b"), answer("alone", 1)])
        assert [s.value for s in scores] == [0, 0, None]
    with pytest.raises(UserError):
        Diversity("d", n=0)


def test_distances_of_states_depend_on_the_texts_alone() -> None:
    texts = ["The time is ten.", "two dollars", "", "two dollars"]
    model = tiny_policy()
    found = StateDistances(Engine(model, EngineSettings(tokens_per_microbatch=8)))(texts)
    assert found == pytest.approx(found.T)
    assert found[1, 3] == pytest.approx(0, abs=1e-6)
    assert found[0, 2] == 0.5
    assert found[0, 1] > 0.01
    again = StateDistances(Engine(model, EngineSettings(layout="packed")))(texts[:2])
    assert again[0, 1] == pytest.approx(found[0, 1], abs=1e-5)


def test_quality_times_diversity() -> None:
    rows = [answer("a b"), answer("a b"), answer("c d e"), answer("")]
    reward = DiversitySettings(quality="length", floor=0.2).build("q", Finder())
    scores = reward.score(rows)
    assert [s.value for s in scores] == pytest.approx([3 * 0.5, 3 * 0.5, 5 * 1.0, None])
    copies = reward.score([answer("a b"), answer("a b"), answer("alone", 1)])
    assert [s.value for s in copies] == pytest.approx([3 * 0.2, 3 * 0.2, 5.0])
    by_states = DiversitySettings(model="base", measure="spread").build("d", Finder())
    assert all((s.value or 0) > 0 for s in by_states.score(rows[1:3]))


class Signed:
    name = "signed"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score(float(r.text.split()[-1])) for r in rollouts]


def test_wrong_answers_can_be_left_out_of_the_comparison() -> None:
    rows = [answer("x 1"), answer("x 0"), answer("y 1"), answer("z -1")]
    diversity = Diversity("d", "novelty", n=1)
    among_all = QualityDiversity("q", Signed(), diversity, floor=0.0).score(rows)
    among_right = QualityDiversity("q", Signed(), diversity, floor=0.0, among_positive=True).score(rows)
    assert [s.value for s in among_all] == pytest.approx([0.0, 0.0, 0.5, None])
    assert [s.value for s in among_right] == pytest.approx([0.5, 0.0, 0.5, None])
    assert among_all[3].status == "error"
