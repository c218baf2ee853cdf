"""Where in a text the answer stands. What merely occurs in the working is never an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Literal

Form = Literal["boxed", "hash", "phrase", "tag", "letter"]
"""`\\boxed{...}`; `#### ...`; "the answer is ..." or "answer: ..."; `<answer>...</answer>`; `A: ...` at the
start of a line."""

FORMS: tuple[Form, ...] = ("boxed", "hash", "phrase", "tag")
_LINE = {
    "hash": re.compile(r"####[ \t]*(?=([^\n]+))"),
    "phrase": re.compile(r"\banswer(?:\s+is\s*:?|\s*:)\s*(?=([^\n]+))", re.IGNORECASE),
    "letter": re.compile(r"^A:[ \t]*(?=([^\n]+))", re.MULTILINE),
}
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\boxed\s*\{")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*[$€£]?(?P<sign2>[-+]?)"
    r"(?:\\[dt]?frac\{(?P<a>\d+)\}\{(?P<b>\d+)\}"
    r"|(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE](?P<exp>[-+]?\d+))?(?:\s*/\s*(?P<over>\d[\d,]*(?:\.\d+)?))?)"
    r"\s*(?P<unit>\\?%|[^\W\d_]+(?:/[^\W\d_]+)?|°[CF]?)?"
)
_DRESS = re.compile(
    r"^(?:\\[(\[]|\\text\{|\\boxed\{|[*$`\"'({\[ ]|about |approximately |exactly )+", re.IGNORECASE
)


def extract(text: str, forms: Sequence[Form] = FORMS) -> str | None:
    """The text of the last marked answer, by position, without the mark; None where nothing is marked.

    A phrase ends with its sentence. An empty mark gives an empty text.
    """
    found = [hit for form in forms for hit in _marked(text, form)]
    return max(found)[1].strip() if found else None


def _marked(text: str, form: Form) -> Iterator[tuple[int, str]]:
    if form == "boxed":
        for mark in _BOX.finditer(text):
            if (inside := _braced(text, mark.end())) is not None:
                yield mark.end(), inside
        return
    for match in (_TAG if form == "tag" else _LINE[form]).finditer(text):
        said = match[1]
        if form == "phrase" and (end := _SENTENCE_END.search(said)):
            said = said[: end.start()]
        yield match.start(1), said


def _braced(text: str, start: int) -> str | None:
    """What stands before the brace that closes the one opened before `start`; None if none does."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return None


def read_number(text: str) -> tuple[float, str] | None:
    """The number that a text begins with, and the word or sign behind it ("" for none).

    Understands thousands commas, currency signs, exponents, `3/4`, `\\frac{3}{4}`, `12 km`, `5%` (0.05 is
    not implied: the unit says so). None where the text begins with anything else.
    """
    match = _NUMBER.match(_DRESS.sub("", text.strip()))
    if match is None or (match["sign"] and match["sign2"]):
        return None
    if match["a"] is not None:
        above, below = float(match["a"]), float(match["b"])
    else:
        above = (
            _plain(match["digits"]) * 10.0 ** float(match["exp"] or 0) if _small(match["exp"]) else math.inf
        )
        below = _plain(match["over"]) if match["over"] else 1.0
    if not below or not math.isfinite(above):
        return None
    sign = -1.0 if "-" in (match["sign"], match["sign2"]) else 1.0
    return sign * above / below, (match["unit"] or "").lstrip("\\")


def _small(exponent: str | None) -> bool:
    return abs(int(exponent or 0)) < 300


def _plain(digits: str) -> float:
    return float(digits.replace(",", ""))


def final_number(text: str, forms: Sequence[Form] = FORMS) -> float | None:
    """The number that an answer ends on, where one is marked, else None."""
    said = extract(text, forms)
    number = None if said is None else read_number(said)
    return None if number is None else number[0]
