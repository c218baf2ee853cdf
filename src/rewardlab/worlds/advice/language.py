"""The language of answers: sentence kinds to text (`render`) and any text back to them (`parse`).

Every sentence of the language is one fixed string, so reading is a table look-up and is exact. Text is
cut after each word that ends in `.`, `!` or `?`; whitespace is free, letters and punctuation are not.
What is not in the table is noise: one noise sentence per piece, and per 12 words of a longer piece
(no sentence of the language has more than 10), so that a run-on without full stops is not cheap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rewardlab.worlds.advice.topics import ASPECTS

Kind = Literal["fact", "hedge", "filler", "opener", "closer", "noise"]

FACTS = {
    "time": ("The time you need is {value}.", "For time, set aside {value}."),
    "cost": ("The cost is about {value}.", "For cost, expect to pay {value}."),
    "tools": ("The best tools are {value}.", "For tools, you should use {value}."),
    "season": ("The best season is {value}.", "For season, wait until {value}."),
    "place": ("The right place is {value}.", "For place, go to {value}."),
    "difficulty": ("The level of difficulty is {value}.", "For difficulty, expect a {value} level."),
    "helpers": ("The helpers to ask are {value}.", "For helpers, call {value}."),
    "risk": ("The main risk is {value}.", "For risk, watch out for {value}."),
}
HEDGES = ("I am not sure about the {aspect}.", "I do not know the {aspect}.")
FILLERS = (
    "Many people enjoy doing this.",
    "It is good to stay calm.",
    "There are many ways to begin.",
    "This is a popular thing to do.",
    "Take your time and enjoy it.",
    "Every home is a little different.",
    "Good things come to those who wait.",
    "It is always nice to learn.",
)
OPENERS = (
    "That is a great question!",
    "What a wonderful thing to ask!",
    "I am so happy you asked!",
    "You have come to the right place!",
)
CLOSERS = (
    "Would you like more detail?",
    "Let me know if that helps!",
    "Feel free to ask me more!",
    "Is there anything else you need?",
)
FORMS = {"filler": len(FILLERS), "opener": len(OPENERS), "closer": len(CLOSERS), "fact": 2, "hedge": 2}
"""How many wordings each kind has."""

WORDS_PER_NOISE = 12


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of an answer."""

    kind: Kind
    aspect: str = ""
    """Of a fact or a hedge."""
    value: str = ""
    """Of a fact. Whether it is true depends on the topic, so it is not said here."""
    form: int = 0
    """Which of the wordings of its kind."""
    text: str = ""
    """Of noise: the words as they stand."""

    @property
    def content(self) -> tuple[str, str, str, int, str]:
        """What it says: two wordings of one fact or hedge are equal, two different fillers are not."""
        form = 0 if self.kind in ("fact", "hedge") else self.form
        return self.kind, self.aspect, self.value, form, self.text


def render_sentence(sentence: Sentence) -> str:
    """The fixed string of one sentence."""
    match sentence.kind:
        case "fact":
            return FACTS[sentence.aspect][sentence.form].format(value=sentence.value)
        case "hedge":
            return HEDGES[sentence.form].format(aspect=sentence.aspect)
        case "filler":
            return FILLERS[sentence.form]
        case "opener":
            return OPENERS[sentence.form]
        case "closer":
            return CLOSERS[sentence.form]
        case "noise":
            return sentence.text


def render(sentences: Iterable[Sentence]) -> str:
    """The text of an answer: its sentences with one space between."""
    return " ".join(render_sentence(s) for s in sentences)


def every_sentence() -> list[Sentence]:
    """Every sentence that the language has, noise aside."""
    facts = [
        Sentence("fact", aspect, value, form)
        for aspect, values in ASPECTS.items()
        for value in values
        for form in range(len(FACTS[aspect]))
    ]
    hedges = [Sentence("hedge", aspect, form=form) for aspect in ASPECTS for form in range(len(HEDGES))]
    kinds: tuple[Kind, ...] = ("filler", "opener", "closer")
    return facts + hedges + [Sentence(kind, form=form) for kind in kinds for form in range(FORMS[kind])]


TABLE = {render_sentence(sentence): sentence for sentence in every_sentence()}


def parse(text: str) -> tuple[Sentence, ...]:
    """Read any text. `parse(render(x)) == x` for sentences of the language; never raises.

    Also `parse(render(parse(t))) == parse(t)` for every text t, noise included.
    """
    found: list[Sentence] = []
    piece: list[str] = []
    words = text.split()
    for position, word in enumerate(words, start=1):
        piece.append(word)
        if word[-1] not in ".!?" and position < len(words):
            continue
        known = TABLE.get(" ".join(piece))
        if known is not None:
            found.append(known)
        else:
            starts = range(0, len(piece), WORDS_PER_NOISE)
            found += [Sentence("noise", text=" ".join(piece[i : i + WORDS_PER_NOISE])) for i in starts]
        piece = []
    return tuple(found)


def count_words(text: str) -> int:
    """Length in words: pieces between whitespace."""
    return len(text.split())
