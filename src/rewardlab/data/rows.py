"""From a raw row to an Example, a Pair or a Prompt; what is wrong with a row is said in a few words."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rewardlab.core.types import Example, Message, Messages, Pair, Prompt

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?", re.MULTILINE)
_HH_START = re.compile(r"\s*Human:")
ROLES = {"Human": "user", "Assistant": "assistant"}


class BadRowError(Exception):
    """Why a row cannot be used."""


def hh_messages(text: str) -> Messages:
    """The turns of a transcript `\\n\\nHuman: ... \\n\\nAssistant: ...`; markers only after
    a blank line.

    An empty last assistant turn (a prompt that ends with `Assistant:`) is left out.
    """
    found = [m for m in _TURN.finditer(text) if m.start() == 0 or text[m.start() : m.start() + 2] == "\n\n"]
    if not found or text[: found[0].start()].strip():
        raise BadRowError("not a Human/Assistant transcript")
    ends = [m.start() for m in found[1:]] + [len(text)]
    turns = [Message(ROLES[m[1]], text[m.end() : end].strip()) for m, end in zip(found, ends, strict=True)]
    if turns[-1].role == "assistant" and not turns[-1].content:
        turns = turns[:-1]
    return tuple(turns)


def messages_of(value: Any, role: str, column: str) -> Messages:
    """A message list as it is, a transcript as its turns, other text as one message of `role`."""
    if isinstance(value, str):
        if not value.strip():
            raise BadRowError(f"{column} is empty")
        return hh_messages(value) if _HH_START.match(value) else (Message(role, value),)
    if not isinstance(value, list) or not all(isinstance(m, Mapping) for m in value):
        raise BadRowError(f"{column} is neither text nor a list of messages")
    if not value:
        raise BadRowError(f"{column} is empty")
    found = []
    for m in value:
        if not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
            raise BadRowError(f"{column} has a message without text `role` and `content`")
        found.append(Message(m["role"], m["content"]))
    return tuple(found)


def column(row: Mapping[str, Any], name: str, columns: Mapping[str, str]) -> Any:
    """The value of our column `name`; None where the row has none."""
    value: Any = row
    for key in columns.get(name, name).split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def needed(row: Mapping[str, Any], name: str, columns: Mapping[str, str]) -> Any:
    """The value of a column that must be there."""
    value = column(row, name, columns)
    if value is None:
        has = ", ".join(map(str, row)) or "none"
        raise BadRowError(
            f"no {columns.get(name, name)!r} (columns: {has}; map it with `columns: {{{name}: ...}}`)"
        )
    return value


def to_example(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Example:
    """`messages`, a transcript in `text`, or `prompt` and `completion`."""
    if (value := column(row, "messages", columns)) is not None:
        messages = messages_of(value, "user", "messages")
    elif (value := column(row, "text", columns)) is not None and column(row, "prompt", columns) is None:
        messages = messages_of(value, "assistant", "text")
    else:
        prompt = messages_of(needed(row, "prompt", columns), "user", "prompt")
        messages = prompt + messages_of(needed(row, "completion", columns), "assistant", "completion")
    example = Example(messages, id=identity(messages), meta=dict(row), place=place)
    if not any(example.mask()):
        raise BadRowError("no assistant message to train on")
    return example


def to_prompt(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Prompt:
    """`prompt` or `messages`, without a final answer; the whole row is kept as meta."""
    value = column(row, "messages", columns)
    found = messages_of(needed(row, "prompt", columns) if value is None else value, "user", "prompt")
    while found and found[-1].role == "assistant":
        found = found[:-1]
    if not found:
        raise BadRowError("prompt has no message before the answer")
    return Prompt(found, id=identity(found), meta=dict(row), place=place)


def to_pair(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Pair:
    """A preference in any of the common forms; the better answer always becomes `chosen`.

    prompt/chosen/rejected [label, weight, margin]; output_1/output_2/preference (1 to 2, 1 = first);
    response_a/response_b/label (a, b, tie). Without `prompt` the turns that chosen and rejected share
    are the prompt.
    """
    first, second, label = _two_answers(row, columns)
    given = column(row, "prompt", columns)
    prompt = () if given is None else messages_of(given, "user", "prompt")
    chosen, rejected = messages_of(first, "assistant", "chosen"), messages_of(second, "assistant", "rejected")
    if given is None:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt or not chosen or not rejected:
            raise BadRowError("no `prompt`, and chosen and rejected do not share one")
    if chosen == rejected:
        raise BadRowError("chosen and rejected are the same")
    if label < 0.5:
        chosen, rejected, label = rejected, chosen, 1 - label
    margin = column(row, "margin", columns)
    return Pair(
        prompt,
        chosen,
        rejected,
        label=label,
        weight=_number(column(row, "weight", columns), "weight", 1.0),
        margin=None if margin is None else _number(margin, "margin", 0.0),
        id=identity(prompt + chosen + rejected),
        meta=dict(row),
        place=place,
    )


def _two_answers(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Any, Any, float]:
    """First answer, second answer, probability that the first is better."""
    if column(row, "output_1", columns) is not None and column(row, "preference", columns) is not None:
        preference = _number(column(row, "preference", columns), "preference", 0.0)
        if preference == 0:  # AlpacaEval's other way to write a tie
            preference = 1.5
        if not 1 <= preference <= 2:
            raise BadRowError(f"preference {preference} is not between 1 and 2")
        return column(row, "output_1", columns), needed(row, "output_2", columns), 2 - preference
    if column(row, "response_a", columns) is not None:
        verdict = str(needed(row, "label", columns)).strip().lower()
        chances = {"a": 1.0, "b": 0.0, "tie": 0.5, "a>b": 1.0, "b>a": 0.0, "a=b": 0.5}
        if verdict not in chances:
            raise BadRowError(f"label {verdict!r} is none of {', '.join(chances)}")
        return column(row, "response_a", columns), needed(row, "response_b", columns), chances[verdict]
    label = _number(column(row, "label", columns), "label", 1.0)
    if not 0 <= label <= 1:
        raise BadRowError(f"label {label} is not a probability")
    return needed(row, "chosen", columns), needed(row, "rejected", columns), label


def _number(value: Any, name: str, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRowError(f"{name} is not a finite number: {value!r}")
    return float(value)


def identity(messages: Messages) -> str:
    text = json.dumps([[m.role, m.content] for m in messages])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
