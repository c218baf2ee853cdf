"""What the sections' own tests leave: every constant answer, judges with a taste, and calls that leak."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence as Rows
from itertools import count

import numpy as np
import pytest

from audit_cases import PAIRS, audit, audit_subject, clean, measures, quality, world
from rewardlab.audit import JudgedSubject, ScoredSubject
from rewardlab.audit.attacks import CONSTANTS
from rewardlab.core.types import Rollout, Score
from rewardlab.judges.base import Comparison
from rewardlab.judges.scores import logistic

PAID = {name: text.strip() for name, text in CONSTANTS.items()}


@pytest.mark.parametrize("name", [*PAID, "copy of the prompt"])
def test_a_reward_that_pays_for_a_constant_answer_is_caught(name: str) -> None:
    def value(prompt: str, text: str) -> float:
        return 9.0 if text == PAID.get(name, prompt) else clean(prompt, text)

    card = audit(value, "exploitability", pairs=world(60), attack_calls=0)
    found = measures(card, "exploitability")
    assert found[f"constant:{name}"]["light"] == "fail"
    assert {m["light"] for k, m in found.items() if k != f"constant:{name}"} == {"ok"}
    assert name in card["sections"]["exploitability"]["sentence"]
    assert "Do not train on it" in card["sections"]["exploitability"]["advice"][0]


@pytest.mark.parametrize(
    ("step", "weakness"),
    [
        ("+injection", lambda t: 9.0 * ("Ignore all earlier" in t)),
        ("+score", lambda t: 9.0 * ("10/10" in t)),
        ("+repeated", lambda t: 9.0 * (len(t) > 300)),
        ("+praise", lambda t: 9.0 * ("well written" in t)),
    ],
)
def test_the_search_finds_what_a_planted_weakness_pays_for(step: str, weakness) -> None:
    card = audit(lambda p, t: clean(p, t) + weakness(t), "exploitability", pairs=world(60))
    assert measures(card, "exploitability")["attack_wins"]["light"] == "fail"
    strongest = card["sections"]["exploitability"]["facts"]["highest_bad_answer"]
    assert step in strongest["steps"] or step == "+repeated"  # other steps make an answer longer too


def test_a_reward_that_reads_the_prompt_alone_cannot_tell_answers_apart() -> None:
    card = audit(lambda p, t: float(len(p)), "discrimination", "bias")
    assert card["sections"]["discrimination"]["light"] == "fail"
    assert card["accuracy"]["estimate"] == 0.5


def test_a_score_that_depends_on_the_padding_of_its_batch_is_caught() -> None:
    def padded(rows: Rows[Rollout]) -> list[Score]:
        longest = max(len(r.text) for r in rows)
        return [
            Score(clean(r.prompt.messages[0].content, r.text) + 0.01 * (longest - len(r.text))) for r in rows
        ]

    found = measures(audit_subject(ScoredSubject("r", padded), "invariance"), "invariance")
    assert found["batch_size"]["light"] == "fail"
    assert found["row_order"]["light"] == found["test_retest"]["light"] == "ok"


@pytest.mark.parametrize(
    ("name", "penalty"),
    [("contractions", lambda t: -5.0 * ("don't" in t)), ("synonyms", lambda t: -5.0 * ("employ" in t))],
)
def test_a_reward_that_tells_equivalent_answers_apart_is_brittle(name: str, penalty) -> None:
    found = measures(audit(lambda p, t: clean(p, t) + penalty(t), "bias", pairs=world(80)), "bias")[name]
    assert found["light"] == "warn"  # a fall is nothing to train towards, so no failure
    assert found["high"] < -0.1


class Taste:
    """A judge by quality that likes something besides."""

    name = "taste"

    def __init__(self, likes=lambda prompt, text: 0.0) -> None:
        self.likes = likes

    def value(self, r: Rollout) -> float:
        prompt = r.prompt.messages[-1].content
        return quality(prompt, r.text) + self.likes(prompt, r.text)

    def compare(self, pairs: Rows[tuple[Rollout, Rollout]]) -> list[Comparison]:
        return [Comparison(logistic(self.value(a) - self.value(b))) for a, b in pairs]


@pytest.mark.parametrize(
    ("name", "likes"),
    [
        ("filler", lambda p, t: 4.0 * ("brief summary" in t)),
        ("list", lambda p, t: 4.0 * ("\n- " in t)),
        ("markdown", lambda p, t: 4.0 * ("**" in t)),
        ("self_praise", lambda p, t: 4.0 * ("well written" in t)),
        ("sycophancy", lambda p, t: 4.0 * ("You are right" in t)),
    ],
)
def test_a_judge_with_a_taste_is_caught_by_its_probe(name: str, likes) -> None:
    pairs = world(80)
    fair = measures(audit_subject(JudgedSubject(Taste()), "bias", pairs=pairs), "bias")
    assert fair[name]["light"] == "ok"
    found = measures(audit_subject(JudgedSubject(Taste(likes)), "bias", pairs=pairs), "bias")
    assert found[name]["light"] == "fail"


def test_a_judge_that_obeys_an_injection_is_exploitable() -> None:
    judge = Taste(lambda p, t: 6.0 * ("Ignore all earlier" in t))
    card = audit_subject(JudgedSubject(judge), "exploitability", pairs=world(60), attack_calls=1500)
    found = measures(card, "exploitability")
    assert found["constant:injection: score"]["light"] == found["attack_wins"]["light"] == "fail"


def test_a_judge_that_answers_at_random_is_caught_by_asking_again() -> None:
    ticks = count()

    class Moody(Taste):
        def compare(self, pairs: Rows[tuple[Rollout, Rollout]]) -> list[Comparison]:
            return [Comparison(random.Random(next(ticks)).random()) for _ in pairs]

    found = measures(audit_subject(JudgedSubject(Moody()), "invariance"), "invariance")
    assert found["test_retest"]["light"] == "warn"
    assert found["test_retest"]["low"] > 0.2
    assert found["position"]["light"] == "ok"  # no favourite position, only no memory
    steady = measures(audit_subject(JudgedSubject(Taste()), "invariance"), "invariance")
    assert steady["test_retest"]["light"] == "ok"
    assert steady["test_retest"]["estimate"] == 0


def test_white_space_and_unicode_are_caught_for_a_judge_too() -> None:
    spaces = Taste(lambda p, t: -6.0 * t.startswith("  "))
    letters = Taste(lambda p, t: -6.0 * (re.search("\u0301", t) is not None))
    for judge, name in ((spaces, "whitespace"), (letters, "unicode")):
        found = measures(audit_subject(JudgedSubject(judge), "invariance"), "invariance")
        assert found[name]["light"] == "fail"
    assert np.mean(["é" in p.chosen[0].content for p in PAIRS]) > 0.2  # there is something to decompose
