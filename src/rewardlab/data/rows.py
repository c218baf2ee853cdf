"""From a raw row to an Example, a Pair or a Prompt; what is wrong with a row is said in a few words.

Columns that a row kind does not read are kept in `meta`. A name in `columns` that no row kind knows
(`answer: result.number`) puts that value into `meta` under our name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rewardlab.core.types import Example, Message, Messages, Pair, Prompt
from rewardlab.data.messages import (
    BadRowError,
    answer_messages,
    checked_answer,
    checked_text,
    conversation,
    hh_messages,
    is_transcript,
    prompt_messages,
)

KNOWN = (
    *("prompt", "completion", "messages", "text", "transcript"),
    *("chosen", "rejected", "label", "weight", "margin"),
    *("steps", "labels", "first_error_step"),
    *("output_1", "output_2", "preference", "response_a", "response_b"),
)
_COMPARISON = re.compile(r"(a|b)([<>=])\2?(a|b)")


@dataclass
class Fields:
    """A raw row read by our names; remembers which of its columns were used."""

    row: Mapping[str, Any]
    columns: Mapping[str, str]
    used: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether the row has this column, be it null."""
        return self._find(name)[0]

    def get(self, name: str) -> Any:
        """The value, None where there is none."""
        here, value = self._find(name)
        if here:
            self.used.add(self.columns.get(name, name))
        return value

    def need(self, name: str) -> Any:
        """The value of a column that must be there and not be null."""
        value = self.get(name)
        if value is None:
            column = self.columns.get(name, name)
            if self.has(name):
                raise BadRowError(f"{column} is null")
            there = ", ".join(map(str, self.row)) or "none"
            raise BadRowError(f"no {column!r} (columns: {there}; map it with `columns: {{{name}: ...}}`)")
        return value

    def number(self, name: str, default: float | None) -> float | None:
        """A finite number, or the default where the column is missing or null."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRowError(f"{name} is not a finite number: {value!r}")
        return float(value)

    def meta(self) -> dict[str, Any]:
        """The unused columns, and the values that `columns` asks for under a name of the user's own."""
        rest = {k: v for k, v in self.row.items() if k not in self.used}
        return rest | {name: self.need(name) for name in self.columns if name not in KNOWN}

    def _find(self, name: str) -> tuple[bool, Any]:
        column = self.columns.get(name, name)
        if column in self.row:
            return True, self.row[column]
        value: Any = self.row
        for key in column.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return False, None
            value = value[key]
        return True, value


def to_example(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Example:
    """`prompt` (or `messages`) and `completion`; or `messages`; or one string in `text` or `transcript`.

    With a completion only that is trained on, otherwise every assistant message. Text that is no
    Human/Assistant transcript is one assistant message, as pretraining needs it.
    """
    fields = Fields(row, columns)
    trained = None
    if fields.has("completion"):
        before = "messages" if fields.has("messages") and not fields.has("prompt") else "prompt"
        prompt = _open(prompt_messages(fields.need(before), before), before)
        answer = answer_messages(fields.need("completion"), "completion", prompt)
        messages = prompt + answer
        trained = (*(False for _ in prompt), *(m.role == "assistant" for m in answer))
    elif fields.has("messages"):
        messages = conversation(fields.need("messages"), "messages")
    elif not fields.has("prompt") and (fields.has("text") or fields.has("transcript")):
        name = "text" if fields.has("text") else "transcript"
        value = fields.need(name)
        if name == "transcript" or (isinstance(value, str) and is_transcript(value)):
            messages = hh_messages(checked_text(_text(value, name), name))
        else:
            messages = answer_messages(_text(value, name), name, ())
    else:
        fields.need("completion" if fields.has("prompt") else "prompt")
        raise AssertionError("a missing column was not refused")
    said = [m.content for m in messages if m.role == "assistant"]
    if not said:
        raise BadRowError("no assistant message to train on")
    if not said[-1].strip():
        raise BadRowError("the last answer is empty")
    meta = fields.meta()
    if "label" in columns:  # a verdict on the answer, or its rating
        meta["label"] = fields.need("label")
    return Example(messages, trained, identity(messages, trained), meta, place)


def to_prompt(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Prompt:
    """`prompt` or `messages`; assistant messages at the end are the answer, kept as meta `completion`."""
    fields = Fields(row, columns)
    name = "messages" if fields.has("messages") and not fields.has("prompt") else "prompt"
    messages = prompt_messages(fields.need(name), name)
    end = len(messages)
    while end and messages[end - 1].role == "assistant":
        end -= 1
    if not any(m.content.strip() for m in messages[:end]):
        raise BadRowError(f"{name} has nothing before the answer")
    meta = fields.meta()
    if end < len(messages):
        meta = {"completion": "\n\n".join(m.content for m in messages[end:])} | meta
    told = {k: v for k, v in meta.items() if k != "id"}
    return Prompt(messages[:end], identity(messages[:end], told), meta, place)


def to_pair(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> Pair:
    """A preference in any of the common forms; the better answer always becomes `chosen`.

    `prompt`, `chosen`, `rejected` and perhaps `label` (probability that chosen is better), `weight`,
    `margin`; `output_1`, `output_2`, `preference` (1 = the first is better, 2 = the second; 0 or 1.5 =
    tie); `response_a`, `response_b`, `label` (a, b, tie, A>B, B>>A, A=B). Without `prompt` it is what
    chosen and rejected share, up to the last user turn.
    """
    fields = Fields(row, columns)
    names, label = _names_and_label(fields)
    first, second = (fields.need(name) for name in names)
    if fields.has("prompt"):
        prompt = _open(prompt_messages(fields.need("prompt"), "prompt"), "prompt")
        chosen, rejected = (answer_messages(v, n, prompt) for v, n in zip((first, second), names))
    else:
        prompt, chosen, rejected = _shared(first, second, names)
    if chosen == rejected:
        raise BadRowError(f"{names[0]} and {names[1]} are the same")
    weight, margin = fields.number("weight", 1.0) or 0.0, fields.number("margin", None)
    if weight < 0:
        raise BadRowError(f"weight is negative: {weight}")
    digest = identity(prompt, chosen, rejected, label, weight, margin)
    pair = Pair(prompt, chosen, rejected, label, weight, margin, digest, fields.meta(), place)
    return better_first(pair)


def better_first(pair: Pair) -> Pair:
    """The pair with the better answer as `chosen`.

    A label below 1/2 swaps the answers, the sign of the margin, every `x_chosen`/`x_rejected` in the meta
    (one without the other changes its name), and the meta's `p_chosen`.
    """
    if pair.label >= 0.5:
        return pair
    meta: dict[str, Any] = {}
    for key, value in pair.meta.items():
        stem, _, side = key.rpartition("_")
        swap = {"chosen": f"{stem}_rejected", "rejected": f"{stem}_chosen"} if stem and stem != "p" else {}
        meta[swap.get(side, key)] = value
    if isinstance(chance := meta.get("p_chosen"), int | float):
        meta["p_chosen"] = 1 - chance
    margin = None if pair.margin is None else -pair.margin
    swapped = replace(pair, chosen=pair.rejected, rejected=pair.chosen, label=1 - pair.label)
    return replace(swapped, margin=margin, meta=meta)


def identity(*content: Any) -> str:
    """16 hex digits of the sha256 of messages and plain values."""
    text = json.dumps(content, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _names_and_label(fields: Fields) -> tuple[tuple[str, str], float]:
    """The two answer columns, and the probability that the first is better."""
    if fields.has("output_1"):
        fields.need("preference")
        preference = fields.number("preference", None) or 1.5  # AlpacaEval writes a tie as 0 or 1.5
        if not 1 <= preference <= 2:
            raise BadRowError(f"preference is not between 1 and 2: {preference}")
        return ("output_1", "output_2"), 2 - preference
    if fields.has("response_a"):
        return ("response_a", "response_b"), _verdict(fields.need("label"))
    label = fields.number("label", 1.0)
    if label is None or not 0 <= label <= 1:
        raise BadRowError(f"label is not a probability: {label}")
    return ("chosen", "rejected"), label


def _verdict(label: Any) -> float:
    """Probability that A is better: 1, 0 or 0.5 for `a`, `b`, `tie`, `A>B`, `A>>B`, `A<B`, `B>A`, `A=B`."""
    text = label.strip().lower() if isinstance(label, str) else ""
    found = _COMPARISON.fullmatch(text)
    if found and found[1] != found[3]:
        text = "tie" if found[2] == "=" else found[1] if found[2] == ">" else found[3]
    if text not in ("a", "b", "tie"):
        raise BadRowError(f"label is none of a, b, tie, A>B, A<B, A=B: {label!r}")
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[text]


def _shared(first: Any, second: Any, names: tuple[str, str]) -> tuple[Messages, Messages, Messages]:
    """Prompt and answers of two whole conversations."""
    both = []
    for value, name in zip((first, second), names):
        if isinstance(value, str):
            if not is_transcript(value):
                raise BadRowError(f"there is no `prompt`, and {name} is not a whole conversation")
            both.append(hh_messages(checked_text(value, name)))
        else:
            both.append(conversation(value, name))
    one, two = both
    size = 0
    while size < min(len(one), len(two)) and one[size] == two[size]:
        size += 1
    if size == len(one) == len(two):
        raise BadRowError(f"{names[0]} and {names[1]} are the same")
    while size and one[size - 1].role != "user":
        size -= 1
    if not size:
        raise BadRowError(f"there is no `prompt`, and {names[0]} and {names[1]} do not share a user turn")
    return one[:size], checked_answer(one[size:], names[0]), checked_answer(two[size:], names[1])


def _open(prompt: Messages, name: str) -> Messages:
    if prompt[-1].role == "assistant":
        raise BadRowError(f"{name} ends with an assistant message")
    return prompt


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"{name} is not text")
    return value


def _plain(value: Any) -> Any:
    return [value.role, value.content] if isinstance(value, Message) else str(value)
