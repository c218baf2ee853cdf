"""Answers that are words: exact match and multiple choice."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Literal

from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.extraction import FORMS, Form, extract
from rewardlab.rewards.rules.rule import RowError, Rule, reference

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_CHOICE = re.compile(r"^[\s*(\[{$]*(?:option\s+|\\text\{)?([A-Z])(?![A-Za-z'])", re.IGNORECASE)


def normalised(text: str) -> str:
    """Lower case, compatibility forms, no punctuation, no English articles, single blanks.

    A text of nothing but these, such as `} ]`, keeps them.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    plain = "".join(" " if c in string.punctuation else c for c in text)
    return " ".join(_ARTICLES.sub(" ", plain).split()) or " ".join(text.split())


class ExactMatchSettings(RewardSettings):
    """1 if the answer is (one of) the reference, else 0."""

    kind: Literal["exact_match"] = "exact_match"
    field: str = "answer"
    """Key of the prompt's meta with the reference, or a list of accepted ones."""
    normalise: bool = True
    """Compare without case, punctuation, articles and extra blanks."""
    extract: bool = False
    """Compare the marked answer rather than the whole text."""
    forms: list[Form] = list(FORMS)
    """How an answer may be marked."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule."""
        plain = normalised if self.normalise else str.strip

        def judge(rollout: Rollout) -> dict[str, float]:
            wanted = reference(rollout, self.field)
            accepted = {plain(str(w)) for w in (wanted if isinstance(wanted, list | tuple) else [wanted])}
            said = extract(rollout.text, self.forms) if self.extract else rollout.text
            right = said is not None and plain(said) in accepted
            return {"correct": float(right), "answered": float(said is not None)}

        return Rule(name, judge, self)


def chosen_letter(text: str, options: Sequence[str], forms: Sequence[Form] = FORMS) -> str | None:
    """The letter of the option that an answer picks: A for the first.

    The marked answer, or where nothing is marked the whole text if it is short (up to 3 words or one option's
    text), must begin with a letter or be an option's words. None for anything else.
    """
    said = extract(text, forms)
    letters = string.ascii_uppercase[: len(options)]
    plain = [normalised(o) for o in options]
    if said is None:
        if len(text.split()) > 3 and normalised(text) not in plain:
            return None
        said = text
    if (whole := normalised(said)) and plain.count(whole) == 1:
        return letters[plain.index(whole)]
    match = _CHOICE.match(said)
    return match[1].upper() if match and match[1].upper() in letters else None


class MultipleChoiceSettings(RewardSettings):
    """1 if the answer picks the right option, else 0."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    field: str = "answer"
    """Key of the prompt's meta: the right letter, 0-based number, or the option's own text."""
    options: str = "options"
    """Key of the prompt's meta with the list of options; where it is missing, letters A to J."""
    forms: list[Form] = list(FORMS)
    """How an answer may be marked."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule."""

        def judge(rollout: Rollout) -> dict[str, float]:
            options = rollout.prompt.meta.get(self.options, ["\0"] * 10)
            if not isinstance(options, list | tuple) or not 1 < len(options) <= 26:
                raise RowError(f"{self.options!r} is no list of 2 to 26 options")
            options = [str(o) for o in options]
            right = _right_letter(reference(rollout, self.field), options)
            said = chosen_letter(rollout.text, options, self.forms)
            return {"correct": float(said == right), "answered": float(said is not None)}

        return Rule(name, judge, self)


def _right_letter(wanted: object, options: Sequence[str]) -> str:
    letters = string.ascii_uppercase[: len(options)]
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(options):
        return letters[wanted]
    if options.count(str(wanted)) == 1:
        return letters[options.index(str(wanted))]
    letter = str(wanted).strip("() .").upper()
    if len(letter) == 1 and letter in letters:
        return letter
    raise RowError(f"{wanted!r} is none of the {len(options)} options")
