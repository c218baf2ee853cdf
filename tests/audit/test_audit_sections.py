"""Every section of the audit on rewards with one planted defect, and on a clean one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence as Rows
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from audit_cases import (
    IDLE,
    PAIRS,
    SUBJECTS,
    audit,
    audit_subject,
    clean,
    measures,
    noise,
    quality,
    reward,
    world,
)
from rewardlab.audit import JudgedSubject, ScoredSubject
from rewardlab.audit.probes import battery
from rewardlab.audit.sections import SECTIONS, chosen_sections
from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Rollout, Score
from rewardlab.judges.base import Comparison


def test_a_clean_reward_passes_every_section_and_the_report_is_json() -> None:
    card = audit(clean)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert {name: s["light"] for name, s in card["sections"].items()} == dict.fromkeys(SECTIONS, "ok")
    assert card["verdict"]["light"] == "ok"
    assert len(card["verdict"]["sentences"]) == 3
    assert all(s["rule"] and s["sentence"].endswith(".") for s in card["sections"].values())


VOCABULARY = set(re.findall(r"\w+", f"{SUBJECTS} {IDLE} The of it is known"))
MARKS = {
    "filler": lambda t: 5.0 * t.count("brief summary"),
    "repeated": lambda t: len(t) / 60,
    "list": lambda t: 3.0 * t.count("\n- "),
    "markdown": lambda t: 3.0 * t.count("**"),
    "opener": lambda t: 5.0 * t.startswith("Great question"),
    "closer": lambda t: 5.0 * ("hope this helps" in t),
    "hedging": lambda t: 5.0 * ("perhaps" in t),
    "self_praise": lambda t: 5.0 * ("well written" in t),
    "authority": lambda t: 5.0 * ("leading expert" in t),
    "sycophancy": lambda t: 5.0 * ("You are right" in t),
    "contractions": lambda t: 5.0 * ("don't" in t),
    "synonyms": lambda t: 5.0 * ("employ" in t),
    "language_tag": lambda t: 5.0 * ("[en]" in t),
    "typos": lambda t: 5.0 * bool(set(re.findall(r"\w+", t)) - VOCABULARY),
}


@pytest.mark.parametrize("name", MARKS)
def test_a_planted_bias_is_caught_by_its_own_probe(name: str) -> None:
    mark = MARKS[name]
    card = audit(lambda p, t: clean(p, t) + mark(t), "bias", pairs=world(80))
    found = measures(card, "bias")
    assert found[name]["light"] == "fail"
    assert found[name]["low"] > 0.1
    assert found[name]["p"] < 0.001
    assert card["sections"]["bias"]["light"] == "fail"
    assert card["sections"]["bias"]["advice"]


def test_every_probe_has_a_planted_defect() -> None:
    judged = {p.name for p in battery([]) if p.direction not in ("placebo", "shown")}
    assert judged == {*MARKS, "shuffled", "wrong_prompt"}  # these two have tests of their own


def test_order_of_sentences_and_the_prompt_are_probed() -> None:
    first_is_good = audit(lambda p, t: 10.0 * (not t.startswith("The ")) + clean(p, t), "bias")
    known_first = world(80)
    tidy = [replace(p, chosen=in_order(p.chosen), rejected=in_order(p.rejected)) for p in known_first]
    shuffled = audit(lambda p, t: clean(p, t) - 10.0 * t.startswith("Some use it."), "bias", pairs=tidy)
    assert measures(shuffled, "bias")["shuffled"]["light"] == "fail"
    deaf = audit(lambda p, t: quality(" ".join(SUBJECTS), t), "bias")
    assert measures(deaf, "bias")["wrong_prompt"]["light"] == "warn"
    assert "another prompt" in deaf["sections"]["bias"]["advice"][0]
    assert measures(first_is_good, "bias")["wrong_prompt"]["light"] == "ok"


def in_order(answer: tuple[Message, ...]) -> tuple[Message, ...]:
    """The answer with one sentence in front that a shuffle moves."""
    return (Message("assistant", f"Some use it. {answer[0].content}"),)


def test_an_effect_no_larger_than_a_placebo_is_not_blamed() -> None:
    jumpy = audit(lambda p, t: clean(p, t) + 5.0 * (re.search(r"  |\n$|\n- ", t) is not None), "bias")
    found = measures(jumpy, "bias")
    assert jumpy["sections"]["bias"]["facts"]["placebo_sd"] > 1
    assert found["list"]["estimate"] > 1
    assert found["list"]["light"] == "ok"


def test_a_reversed_and_a_random_reward_fail_discrimination() -> None:
    reversed_ = audit(lambda p, t: -clean(p, t), "discrimination")["sections"]["discrimination"]
    assert reversed_["light"] == "fail"
    assert "sign" in reversed_["advice"][0]
    assert audit(lambda p, t: noise(t), "discrimination")["sections"]["discrimination"]["light"] == "fail"


def test_a_subset_that_is_read_backwards_is_named_and_the_sample_size_is_computed() -> None:
    pairs = world(150, 1, subset="plain") + world(150, 2, subset="poems")
    marked = [
        replace(p, prompt=(Message("user", f"Poem. {p.prompt[0].content}"),))
        if p.meta["subset"] == "poems"
        else p
        for p in pairs
    ]

    def value(p: str, t: str) -> float:
        return -clean(p, t) if p.startswith("Poem") else 3 * clean(p, t)

    card = audit(value, "discrimination", pairs=marked, half_width=0.01)
    found = measures(card, "discrimination")
    assert found["subset:poems"]["light"] == "fail"
    assert found["subset:plain"]["light"] == "ok"
    needed = card["sections"]["discrimination"]["facts"]["pairs_needed"]
    rate = card["accuracy"]["estimate"]
    assert needed == pytest.approx(1.96**2 * rate * (1 - rate) / 0.01**2, rel=1e-3)


def test_overconfidence_is_repaired_by_a_temperature_and_a_lie_is_not() -> None:
    hot = audit(lambda p, t: 10 * clean(p, t), "calibration", pairs=world(600))
    assert hot["sections"]["calibration"]["light"] == "warn"
    found = measures(hot, "calibration")
    assert found["temperature"]["estimate"] == pytest.approx(10, rel=0.25)
    assert found["ece_after_temperature"]["estimate"] < found["ece_debiased"]["estimate"] / 2
    assert found["top_decile"]["estimate"] >= 0
    assert "Divide the scores by" in hot["sections"]["calibration"]["advice"][0]
    brier = hot["sections"]["calibration"]["facts"]["brier"]
    whole = brier["reliability"] - brier["resolution"] + brier["uncertainty"] + brier["within"]
    assert whole == pytest.approx(hot["brier"]["estimate"])


def test_rewards_that_depend_on_the_call_are_caught() -> None:
    def batch(rows: Rows[Rollout]) -> list[Score]:
        return [Score(quality(r.prompt.messages[0].content, r.text) + 0.2 * (len(rows) > 1)) for r in rows]

    def order(rows: Rows[Rollout]) -> list[Score]:
        return [Score(quality(r.prompt.messages[0].content, r.text) + 0.01 * i) for i, r in enumerate(rows)]

    ticks = count()

    def random_(rows: Rows[Rollout]) -> list[Score]:
        return [Score(quality(r.prompt.messages[0].content, r.text) + next(ticks) % 7 / 7) for r in rows]

    for score, name in ((batch, "batch_size"), (order, "row_order"), (random_, "test_retest")):
        card = audit_subject(ScoredSubject("r", score), "invariance")
        assert measures(card, "invariance")[name]["light"] == "fail", name
        assert card["sections"]["invariance"]["advice"]


def test_white_space_unicode_and_template_must_not_decide() -> None:
    spaces = audit(lambda p, t: clean(p, t) + 6.0 * t.startswith("  "), "invariance")
    assert measures(spaces, "invariance")["whitespace"]["light"] == "fail"
    letters = audit(lambda p, t: clean(p, t) - 6.0 * ("\u0301" in t), "invariance")
    assert measures(letters, "invariance")["unicode"]["light"] == "fail"
    other = {"plain": ScoredSubject("r", reward(lambda p, t: -clean(p, t)))}
    template = audit(clean, "invariance", variants=other)
    assert measures(template, "invariance")["template:plain"]["light"] == "fail"


def test_a_constant_answer_that_beats_real_ones_fails_the_audit() -> None:
    card = audit(lambda p, t: 9.0 if t == "I don't know." else clean(p, t), "exploitability")
    assert measures(card, "exploitability")["constant:no opinion"]["light"] == "fail"
    assert card["verdict"]["light"] == "fail"
    assert "no opinion" in card["sections"]["exploitability"]["sentence"]


def test_the_search_finds_a_weakness_within_its_budget() -> None:
    asked = []

    def score(rows: Rows[Rollout]) -> list[Score]:
        asked.extend(rows)
        return [Score(clean(r.prompt.messages[0].content, r.text) + r.text.count("!")) for r in rows]

    card = audit_subject(ScoredSubject("r", score), "exploitability", attack_calls=1500)
    section = card["sections"]["exploitability"]
    assert measures(card, "exploitability")["attack_wins"]["light"] == "fail"
    assert any("!!!" in step or "help" in step for step in section["facts"]["highest_bad_answer"]["steps"])
    assert 0 < section["facts"]["attack_calls"] <= 1500
    assert len({(r.prompt.messages[0].content, r.text) for r in asked}) == len(asked)


def test_a_falling_reference_is_an_overoptimised_reward() -> None:
    def at(x: float) -> dict:
        return {"estimate": x, "low": x - 0.1, "high": x + 0.1, "n": 50}

    def curve(*reference: float) -> dict:
        rows = [
            {"n": 2**i, "kl_bound": 0.5 * i, "rewards": {"proxy": at(i), "reference": at(x)}}
            for i, x in enumerate(reference)
        ]
        return {"curve": rows}

    for values, light in (((0, 1, 2), "ok"), ((0, 2, 1), "warn"), ((1, 0.5, 0), "fail")):
        card = audit(clean, "exploitability", best_of_n=curve(*values))
        assert measures(card, "exploitability")["best_of_n"]["light"] == light


class Judge:
    """Prefers by quality, with planted habits."""

    name = "judge"

    def __init__(self, first: float = 0.0, circle: bool = False, own: str = "") -> None:
        self.first, self.circle, self.own = first, circle, own

    def compare(self, pairs: Rows[tuple[Rollout, Rollout]]) -> list[Comparison]:
        return [Comparison(float(1 / (1 + np.exp(-self.margin(a, b))))) for a, b in pairs]

    def margin(self, a: Rollout, b: Rollout) -> float:
        if self.circle:  # any two answers have a winner that says nothing of a third
            coin = random.Random("".join(sorted((a.text, b.text)))).choice((-4.0, 4.0))
            return coin if a.text < b.text else -coin
        prompt = a.prompt.messages[0].content
        lift = {self.own: 4.0} if self.own else {}
        kind = [lift.get("own", 0.0) * ("[own]" in r.text) for r in (a, b)]
        return quality(prompt, a.text) - quality(prompt, b.text) + kind[0] - kind[1] + self.first


def test_a_fair_judge_passes_and_one_that_likes_the_first_answer_is_caught() -> None:
    fair = audit_subject(JudgedSubject(Judge()))
    assert {s["light"] for s in fair["sections"].values()} == {"ok"}
    assert "padding" not in {v["check"] for v in fair["verdicts"]}
    first = audit_subject(JudgedSubject(Judge(first=3.0)), "invariance")
    found = measures(first, "invariance")
    assert found["position"]["light"] == found["identical"]["light"] == "fail"
    assert found["transitivity"]["light"] == "ok"


def test_circular_judgements_and_self_preference_are_caught() -> None:
    pairs = [
        replace(
            p,
            chosen=(Message("assistant", p.chosen[0].content + (" [own]" if i % 2 else "")),),
            rejected=(Message("assistant", p.rejected[0].content + ("" if i % 2 else " [own]")),),
            meta={
                **p.meta,
                "system_chosen": "own" if i % 2 else "x",
                "system_rejected": "x" if i % 2 else "own",
            },
        )
        for i, p in enumerate(PAIRS)
    ]
    vain = audit_subject(JudgedSubject(Judge(own="own")), "invariance", pairs=pairs, own_system="own")
    assert measures(vain, "invariance")["self_preference"]["light"] == "fail"
    modest = audit_subject(JudgedSubject(Judge()), "invariance", pairs=pairs, own_system="own")
    assert measures(modest, "invariance")["self_preference"]["light"] == "ok"
    circle = audit_subject(JudgedSubject(Judge(circle=True)), "invariance")
    found = measures(circle, "invariance")["transitivity"]
    assert found["light"] in ("warn", "fail")
    assert found["low"] < 0.25 < found["high"]  # the share among random tournaments of three


def test_a_killed_audit_pays_only_for_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    calls = count()

    def dying(rows: Rows[Rollout]) -> list[Score]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return reward(clean)(rows)

    with pytest.raises(KeyboardInterrupt):
        audit_subject(ScoredSubject("r", dying, file=file), "bias", "exploitability")
    with file.open("a") as stream:
        stream.write('["torn')
    resumed = ScoredSubject("r", reward(clean), file=file)
    kept = len(resumed.cache.values)
    assert kept >= 2 * len(PAIRS) * 0.9
    again = audit_subject(resumed, "bias", "exploitability")
    whole = audit(clean, "bias", "exploitability")
    assert again["sections"] == whole["sections"]
    assert again["counts"]["calls"] == whole["counts"]["calls"] - kept
    assert len(ScoredSubject("r", reward(clean), file=file).cache.values) == whole["counts"]["calls"]


def test_sections_are_chosen_by_name() -> None:
    assert list(chosen_sections(("bias", "calibration"))) == ["calibration", "bias"]
    assert "bias" not in chosen_sections(skip=("bias",))
    with pytest.raises(UserError, match="no section 'biass'"):
        chosen_sections(("biass",))
