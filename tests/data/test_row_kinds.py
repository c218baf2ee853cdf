"""Rows in the forms that real files have: what becomes prompt, answer, label and meta."""

from __future__ import annotations

from typing import Any

import pytest

from rewardlab.core.types import Message, Pair
from rewardlab.data.load import Loaded, divide
from rewardlab.data.messages import BadRowError, prompt_messages
from rewardlab.data.rows import better_first, to_example, to_pair, to_prompt

Row = dict[str, Any]
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
BYE = {"role": "assistant", "content": "Bye"}
NEXT = {"role": "user", "content": "And?"}


def pair(row: Row) -> Pair:
    return to_pair(row, "f:1", {})


def contents(messages: tuple[Message, ...]) -> list[str]:
    return [m.content for m in messages]


def test_only_the_completion_is_trained_on_not_earlier_answers() -> None:
    row = {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "completion": "d"}
    example = to_example(row, "f:1", {})
    assert contents(example.messages) == ["a", "b", "c", "d"]
    assert example.mask() == (False, False, False, True)


def test_a_transcript_trains_every_assistant_turn() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: say Assistant: c\n\nAssistant: d"
    for name in ("text", "transcript"):
        example = to_example({name: text}, "f:1", {})
        assert contents(example.messages) == ["a", "b", "say Assistant: c", "d"]
        assert example.mask() == (False, True, False, True)


def test_an_empty_turn_in_the_middle_is_kept_and_an_empty_last_answer_refused() -> None:
    empty = {"role": "assistant", "content": ""}
    assert len(to_example({"messages": [HI, empty, NEXT, BYE]}, "f:1", {}).messages) == 4
    for row in (
        {"messages": [HI, empty]},
        {"text": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"},
    ):
        with pytest.raises(BadRowError, match="last answer is empty"):
            to_example(row, "f:1", {})


def test_text_that_only_starts_like_a_transcript_stays_text() -> None:
    assert prompt_messages("Human: a word for people.", "prompt") == (
        Message("user", "Human: a word for people."),
    )
    answer = pair({"prompt": "P?", "chosen": "\n\nHuman: is a label.", "rejected": "x"}).chosen
    assert answer == (Message("assistant", "\n\nHuman: is a label."),)


def test_unread_columns_are_meta_and_own_names_can_be_mapped() -> None:
    row = {"question": "Q?", "solution": "S", "result": {"number": 4}, "level": 2}
    columns = {"prompt": "question", "answer": "result.number"}
    prompt = to_prompt(row, "f:1", columns)
    assert prompt.messages == (Message("user", "Q?"),)
    assert prompt.meta == {"solution": "S", "result": {"number": 4}, "level": 2, "answer": 4}
    with pytest.raises(BadRowError, match=r"no 'result\.value'"):
        to_prompt(row, "f:1", columns | {"answer": "result.value"})


def test_a_conversation_used_as_a_prompt_ends_before_its_answer() -> None:
    prompt = to_prompt({"messages": [HI, HELLO, NEXT, BYE]}, "f:1", {})
    assert contents(prompt.messages) == ["Hi", "Hello", "And?"]
    assert prompt.meta["completion"] == "Bye"


def test_equal_prompts_with_other_answers_are_different_rows() -> None:
    a, b, again = (
        to_prompt({"id": i, "prompt": "P?", "answer": x}, "f:1", {}) for i, x in ((1, 4), (2, 5), (3, 4))
    )
    assert a.id != b.id
    assert a.id == again.id


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [HI, HELLO], "rejected": [HI, BYE]},
        {"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, BYE]},
        {"prompt": [HI], "chosen": [HELLO], "rejected": [BYE]},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Bye"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello", "rejected": "Bye"},
        {
            "prompt": "\n\nHuman: Hi",
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Bye",
        },
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Bye"},
    ],
)
def test_one_preference_in_seven_forms(row: Row) -> None:
    found = pair(row)
    assert found.prompt == (Message("user", "Hi"),)
    assert found.chosen == (Message("assistant", "Hello"),)
    assert found.rejected == (Message("assistant", "Bye"),)


def test_the_shared_prompt_ends_at_a_user_turn_even_if_the_first_answer_is_shared() -> None:
    found = pair({"chosen": [HI, HELLO], "rejected": [HI, HELLO, NEXT, BYE]})
    assert contents(found.prompt) == ["Hi"]
    assert contents(found.chosen) == ["Hello"]
    assert contents(found.rejected) == ["Hello", "And?", "Bye"]


@pytest.mark.parametrize(
    ("label", "chosen", "probability"),
    [
        ("a", "one", 1.0),
        ("B", "two", 1.0),
        ("tie", "one", 0.5),
        ("A>B", "one", 1.0),
        ("A>>B", "one", 1.0),
        ("a<b", "two", 1.0),
        ("B>A", "two", 1.0),
        ("[[A]]", None, 0.0),
        ("A>A", None, 0.0),
        (None, None, 0.0),
        (1, None, 0.0),
    ],
)
def test_verdicts(label: object, chosen: str | None, probability: float) -> None:
    row = {"prompt": "P?", "response_a": "one", "response_b": "two", "label": label}
    if chosen is None:
        with pytest.raises(BadRowError, match="label"):
            pair(row)
    else:
        found = pair(row)
        assert (found.chosen[0].content, found.label) == (chosen, probability)


@pytest.mark.parametrize(
    ("preference", "chosen", "probability"),
    [(1, "one", 1.0), (2.0, "two", 1.0), (0, "one", 0.5), (1.5, "one", 0.5), (1.25, "one", 0.75)],
)
def test_alpaca_eval_preferences(preference: float, chosen: str, probability: float) -> None:
    found = pair({"prompt": "P?", "output_1": "one", "output_2": "two", "preference": preference})
    assert (found.chosen[0].content, found.label) == (chosen, probability)


def test_a_label_below_one_half_swaps_everything_that_belongs_to_an_answer() -> None:
    row = {
        **{"prompt": "P?", "chosen": "c", "rejected": "r", "label": 0.25, "margin": 3},
        **{"gold_chosen": 1.0, "gold_rejected": 2.0, "p_chosen": 0.25, "who": "x"},
    }
    found = pair(row)
    assert (found.chosen[0].content, found.label, found.margin) == ("r", 0.75, -3.0)
    assert found.meta == {"gold_chosen": 2.0, "gold_rejected": 1.0, "p_chosen": 0.75, "who": "x"}
    assert better_first(found) == found


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "P?", "chosen": "a", "rejected": "b", "label": 1.5}, "not a probability"),
        ({"prompt": "P?", "chosen": "a", "rejected": "b", "margin": float("nan")}, "not a finite number"),
        ({"prompt": "P?", "chosen": "a", "rejected": "b", "weight": -1}, "weight is negative"),
        ({"prompt": "P?", "chosen": "a", "rejected": " "}, "rejected is empty"),
        ({"prompt": "P?", "chosen": 3, "rejected": "b"}, "neither text nor a list of messages"),
        ({"prompt": "P?", "chosen": "a\ud83d", "rejected": "b"}, "not valid Unicode at character 2"),
        ({"prompt": "P?", "chosen": [HI], "rejected": "b"}, "does not start and end with an assistant"),
        ({"prompt": [HI, HELLO], "chosen": "a", "rejected": "b"}, "ends with an assistant message"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": [{"role": "bot", "content": "x"}], "chosen": "a", "rejected": "b"}, "role 'bot'"),
        ({"prompt": "P?", "output_1": "a", "output_2": "b", "preference": 3}, "not between 1 and 2"),
        ({"chosen": "a", "rejected": "b"}, "chosen is not a whole conversation"),
        ({"chosen": [NEXT, HELLO], "rejected": [HI, HELLO]}, "do not share a user turn"),
        ({"chosen": [HI, HELLO], "rejected": [HI, HELLO]}, "the same"),
    ],
)
def test_bad_pairs(row: Row, reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        pair(row)


def test_tool_calls_are_refused_by_name() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    with pytest.raises(BadRowError, match=r"message 2 of messages .*tool calls"):
        to_example({"messages": [HI, call]}, "f:1", {})


def test_plain_texts_are_divided_one_by_one_and_the_seed_decides_which() -> None:
    texts = [to_example({"text": f"Chapter {i}."}, "f:1", {}) for i in range(400)]
    sides = []
    for seed in (0, 0, 1):
        loaded = Loaded("f", list(texts))
        divide(loaded, 0.25, seed)
        assert 60 < len(loaded.held_out) < 140
        sides.append([row.id for row in loaded.held_out])
    assert sides[0] == sides[1] != sides[2]
