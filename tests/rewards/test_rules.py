"""Rewards that are programs: what counts, what does not, and what is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Score
from rewardlab.execution.sandbox import isolation
from rewardlab.rewards.catalog import Book, RewardsFile
from rewardlab.rewards.rules.constraints import CHECKS, followed
from rewardlab.rewards.rules.extraction import extract, read_number
from rewardlab.rewards.rules.language import detect
from rewardlab.rewards.rules.matching import chosen_letter
from rewardlab.rewards.rules.numbers import numbers_agree
from rewardlab.rewards.rules.regions import Box, iou
from rewardlab.rewards.rules.shape import repetition
from rewardlab.rewards.rules.style import habits
from rewardlab.rewards.texts import to_rollouts


def judge(text: str, rule: dict[str, Any], **meta: Any) -> Score:
    reward = Book(load_settings(RewardsFile, {"rewards": {"r": rule}}).value.rewards).reward("r")
    return reward.score(to_rollouts(["p"], [text], [meta]))[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        ("#### 4\nno: \\boxed{5}", "5"),
        ("<answer> blue </answer>", "blue"),
        ("The answer is 3.5 apples. Then 7.", "3.5 apples"),
        (r"\boxed{never closed", None),
        ("I answered 7 questions with 3", None),
    ],
)
def test_only_a_marked_answer_counts(text: str, expected: str | None) -> None:
    assert extract(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$1,234.50", (1234.5, "")),
        ("-3/4", (-0.75, "")),
        (r"$\frac{3}{4}$", (0.75, "")),
        ("1.5e3 km", (1500.0, "km")),
        (r"5\%", (5.0, "%")),
        ("**12**", (12.0, "")),
        ("x = 4", None),
        ("1/0", None),
        ("1e999", None),
    ],
)
def test_reading_a_number(text: str, expected: tuple[float, str] | None) -> None:
    assert read_number(text) == expected


@settings(deadline=None, max_examples=50)
@given(x=st.floats(-1e9, 1e9).map(lambda v: round(v, 4)))
def test_a_printed_number_is_read_back(x: float) -> None:
    assert numbers_agree(f"{x:,.4f}", str(x))
    assert numbers_agree(f"{x:.4f} apples", repr(x))


def test_units_and_tolerances() -> None:
    units = {"km": 1000.0, "m": 1.0}
    assert numbers_agree("1.5 km", "1500 m", units=units)
    assert numbers_agree("1.5 miles", "1500 m", units=units) is False
    assert numbers_agree("3.14", "3.14159") is False
    assert numbers_agree("3.14", "3.14159", relative=1e-3)
    assert numbers_agree("none", "3") is None
    assert judge("#### 3", {"kind": "numeric"}, answer="many").status == "error"


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"The answer is $x^2+2x+1$.", "(x+1)^2", 1.0),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", 1.0),
        (r"\boxed{3}", "4", 0.0),
        ("no idea, maybe 4", "4", 0.0),
    ],
)
def test_mathematical_equivalence(text: str, answer: str, value: float) -> None:
    assert judge(text, {"kind": "math"}, answer=answer).value == value


def test_a_comparison_that_takes_too_long_is_an_error() -> None:
    hard = judge(r"\boxed{x^2+2x+1}", {"kind": "math", "seconds": 0.001}, answer="7")
    assert hard.status == "error"
    assert judge(r"\boxed{1}", {"kind": "math"}).status == "error"


def test_length_repetition_pattern_and_tags() -> None:
    band = {"kind": "length_band", "minimum": 2, "maximum": 4, "slope": 4}
    assert [judge("a " * n, band).value for n in (0, 1, 2, 4, 6, 9)] == [0.5, 0.75, 1, 1, 0.5, 0]
    assert judge("well, yes", {"kind": "pattern", "pattern": r"\byes\b"}).value == 1
    assert judge("well, yes", {"kind": "pattern", "pattern": "yes", "absent": True}).value == 0
    tags = {"kind": "tags", "partial": 0.5}
    assert judge("<think>a\nb</think>\n<answer>c</answer>", tags).value == 1
    assert judge("<answer>c</answer><think>a</think>", tags).value == 0.5
    assert judge("<think>a</think>", tags).value == 0.25
    assert judge("<think>a</think><answer>b</answer> more", tags).value == 0.5
    with pytest.raises(UserError, match="no regular expression"):
        judge("", {"kind": "pattern", "pattern": "("})
    with pytest.raises(UserError, match="above maximum"):
        judge("", {**band, "maximum": 1})


@settings(deadline=None, max_examples=40)
@given(words=st.lists(st.sampled_from("abcd"), max_size=20), size=st.integers(1, 4))
def test_repetition_is_a_share_that_saying_it_all_again_raises(words: list[str], size: int) -> None:
    once = repetition(words, size)
    assert 0 <= once < 1
    assert repetition(words + words, size) >= once - 1e-12 or len(words) < size


def test_hollow_affirmations_are_found_and_plain_answers_are_not() -> None:
    hollow = "What a great question! Bread needs yeast.\n\nI hope this helps! "
    assert judge(hollow, {"kind": "style"}).value == -2
    for text in (
        "Absolutely! Go on.",
        "Great question, really.",
        "Sure, here it is.",
        "I'd be happy to help.",
    ):
        assert habits(text)["opener"] == 1, text
    for text in ("Great apes use tools.", "Bread needs yeast.", "Surely not.", "Good Friday is a holiday."):
        assert habits(text)["opener"] == 0, text
    assert habits("Let me know if you need more details.")["closer"] == 1
    assert habits("Let me know the time. Then leave.")["closer"] == 0
    assert habits("- a\n- **b**\n# c")["markup"] == 4


def test_exact_match_and_multiple_choice() -> None:
    assert judge("The  Eiffel tower!", {"kind": "exact_match"}, answer=["Eiffel Tower", "it"]).value == 1
    assert judge("}", {"kind": "exact_match"}, answer="]").value == 0
    assert (
        judge("So the answer is Paris.", {"kind": "exact_match", "extract": True}, answer="paris").value == 1
    )
    options = ["red", "green", "blue"]
    choice = {"kind": "multiple_choice"}
    for text in ("(B)", "The answer is B.", "the answer is (b) green", "Answer: green", "green"):
        assert judge(text, choice, answer="B", options=options).value == 1, text
    assert judge("A lot of thought leads nowhere, but B", choice, answer="A", options=options).value == 0
    assert judge("C", choice, answer=2, options=options).value == 1
    assert judge("C", choice, answer="purple", options=options).status == "error"
    assert chosen_letter("The answer is A.", ["x", "y"]) == "A"


def test_json_by_schema() -> None:
    rule = {
        "kind": "json_schema",
        "parses": 0.2,
        "json_schema": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
    }
    assert judge('```json\n{"n": 3}\n```', rule).value == 1
    assert judge('{"n": "3"}', rule).value == 0.2
    assert judge('{"n": NaN}', rule).value == 0
    assert judge("n = 3", rule).value == 0
    with pytest.raises(UserError, match="no valid schema"):
        judge("{}", {**rule, "json_schema": {"type": "no such type"}})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The cat is on the table and it is not happy with this.", "en"),
        ("Die Katze ist auf dem Tisch und sie ist nicht froh.", "de"),
        ("Le chat est sur la table et il ne veut pas descendre.", "fr"),
        ("El gato está en la mesa y no quiere bajar.", "es"),
        ("Кошка сидит на столе и не хочет уходить, но она рада.", "ru"),
        ("猫がテーブルの上にいます。", "ja"),
        ("고양이가 탁자 위에 있습니다.", "ko"),
        ("बिल्ली मेज पर है और वह खुश नहीं है।", "hi"),
        ("x = 3", None),
        ("", None),
    ],
)
def test_languages(text: str, code: str | None) -> None:
    assert detect(text) == code


def test_sets_and_boxes() -> None:
    clicks = judge('I click ["a", "b", "d"]', {"kind": "set_f1"}, answer=["A", "b", "c"])
    assert clicks.value == pytest.approx(2 / 3)
    assert judge("The answer is a, b, c.", {"kind": "set_f1"}, answer=["a", "b", "c"]).value == 1
    assert judge("nothing", {"kind": "set_f1"}, answer=["a"]).parts["answered"] == 0
    box = judge("[0, 0, 10, 10]", {"kind": "box"}, boxes=[0, 0, 10, 20])
    assert box.value == 0.5
    many = judge("[[0,0,1,1],[5,5,6,6]]", {"kind": "box", "score": "f1"}, boxes=[[0, 0, 1, 1]])
    assert many.value == pytest.approx(2 / 3)
    assert judge("[1]", {"kind": "box"}, boxes="?").status == "error"


CORNERS = st.tuples(*[st.floats(0, 10)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@settings(deadline=None, max_examples=40)
@given(a=CORNERS, b=CORNERS)
def test_overlap_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert -1e-9 <= iou(a, b) <= 1 + 1e-9


CONSTRAINTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "GO NOW", "Go now"),
    ("change_case:english_capital", {}, "ALL BIG.", "NOT all"),
    ("change_case:english_lowercase", {}, "all small.", "Not all"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Say hi. Hi!", "Hi! Say hi."),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name] at home"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. more", "Bye. more"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    ("detectable_format:json_format", {}, '{"a": [1]}', "{a: 1}"),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}, "Section 1 a Section 2 b", "Section 1 a"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n- c"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and b"),
    ("detectable_format:title", {}, "<<On cats>> text", "On cats"),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "A Cat, a dog", "a cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "category", "the Cat sat"),
    ("keywords:frequency", {"relation": "less than", "keyword": "cat", "frequency": 2}, "cat", "cat cat"),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "!", "let_frequency": 2}, "a! b!", "a!"),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund und die Katze.", "This is not the dog and the cat."),
    ("length_constraints:nth_paragraph_first_word", {"first_word": "elm", "num_paragraphs": 2, "nth_paragraph": 2}, "oak\n\nElm tree", "elm\n\noak"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one two"),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}, "One. Two!", "One, two."),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "one two", "one two three"),
    ("punctuation:no_comma", {}, "no comma", "a, comma"),
    ("startend:end_checker", {"end_phrase": "The end."}, "So. The end.", "The end. So."),
    ("startend:quotation", {}, '"quoted"', "unquoted"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments", "good", "bad"), CONSTRAINTS, ids=[c[0] for c in CONSTRAINTS])
def test_each_kind_of_instruction(kind: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    assert followed(good, [kind], [arguments]) == [True]
    assert followed(bad, [kind], [arguments]) == [False]
    assert followed(" ", [kind], [arguments]) == [False]


def test_instructions_together_and_unknown_ones() -> None:
    assert {c[0] for c in CONSTRAINTS} == set(CHECKS)
    meta = {"instruction_ids": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    assert judge("plain", {"kind": "constraints"}, **meta).value == 0.5
    assert judge("plain", {"kind": "constraints", "score": "all"}, **meta).value == 0
    unknown = judge("x", {"kind": "constraints"}, instruction_ids=["no:such"], kwargs=[{}])
    assert unknown.status == "error"


@pytest.mark.skipif(isolation() == "none", reason="neither bwrap nor unshare works here")
def test_unit_tests_run_what_the_answer_says() -> None:
    rule = {"kind": "unit_tests", "score": "share"}
    tests = ["assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 4"]
    score = judge("Here:\n```python\ndef f(x):\n    return 2 * x\n```\nDone.", rule, tests=tests)
    assert score.value == pytest.approx(2 / 3)
    humaneval = {
        "prompt_code": "def f(x):\n",
        "tests": "def check(c):\n    assert c(1) == 1\n",
        "entry_point": "f",
    }
    assert judge("    return x\n", {"kind": "unit_tests", "prefix": "prompt_code"}, **humaneval).value == 1
    assert judge("    exit(0)\n", {"kind": "unit_tests", "prefix": "prompt_code"}, **humaneval).value == 0
    assert judge("x", rule).status == "error"


def test_a_function_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\n"
        "def f(prompt, answer, meta):\n"
        "    if answer == 'hang':\n        time.sleep(60)\n"
        "    if answer == 'none':\n        return None\n"
        "    return {'score': len(answer), 'bonus': meta['bonus']}\n"
    )
    rule = {"kind": "function", "function": f"{file}:f"}
    score = judge("four", rule, bonus=2)
    assert (score.value, score.parts) == (4.0, {"bonus": 2.0})
    assert judge("none", rule).status == "abstain"
    assert "KeyError" in judge("four", rule).reason
    assert judge("four", {**rule, "values": "binary"}, bonus=1).status == "error"
    assert judge("four", {**rule, "lowest": 0, "highest": 3}, bonus=1).status == "error"
    killable = {**rule, "seconds": 1.0}
    assert judge("four", killable, bonus=2) == score
    assert "no answer within" in judge("hang", killable, bonus=2).reason
    with pytest.raises(UserError, match="no file"):
        judge("", {"kind": "function", "function": "nowhere.py:f"})


def test_settings_survive_a_round_trip_through_json() -> None:
    rules = {"n": {"kind": "numeric", "units": {"km": 1000}}, "s": {"kind": "style", "hedge": 0.5}}
    loaded = load_settings(RewardsFile, {"rewards": rules}).value
    assert load_settings(RewardsFile, json.loads(loaded.model_dump_json())).value == loaded
