"""Instructions that a program can check: the 25 kinds of IFEval.

Zhou et al. 2023 (arXiv 2311.07911). A prompt's meta has
`instruction_ids` (`keywords:existence`, ...) and `kwargs`, a list of the same length. Our own reading: words
are runs of letters, digits and apostrophes; a sentence ends at `.`, `!` or `?` before white space or the end;
languages are told apart as far as `language.detect` can, and an answer in none that it knows passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.json_schema import read_json
from rewardlab.rewards.rules.language import detect
from rewardlab.rewards.rules.rule import RowError, Rule, reference

Check = Callable[..., bool]
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_PARAGRAPH_RULE = re.compile(r"\s?\*\*\*\s?")


def words(text: str) -> list[str]:
    """Runs of letters and digits, apostrophes and hyphens inside kept."""
    return _WORD.findall(text)


def sentences(text: str) -> int:
    """How many sentences; a text without an end mark is one, an empty one none."""
    pieces = re.split(r"(?<=[.!?])[\"'”)*]*\s+|\n{2,}", text)
    return sum(bool(_WORD.search(p)) for p in pieces)


def compare(count: float, relation: str | None, limit: float) -> bool:
    """`at least` or `less than`; anything else is a RowError."""
    if relation not in ("at least", "less than"):
        raise RowError(f"relation {relation!r} is neither 'at least' nor 'less than'")
    return count >= limit if relation == "at least" else count < limit


def occurrences(text: str, word: str) -> int:
    """How often a word or phrase stands in a text as such, whatever its case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _parts(text: str, rule: str) -> list[str]:
    return [p for p in re.split(rule, text) if p.strip()]


def _nth_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = _parts(text, r"\n\n+")
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    first = words(paragraphs[nth_paragraph - 1])
    return bool(first) and first[0].lower() == first_word.lower()


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    pieces = _PARAGRAPH_RULE.split(text)
    inner_empty = any(not p.strip() for p in pieces[1:-1])
    return not inner_empty and sum(bool(p.strip()) for p in pieces) == num_paragraphs


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s*(?:\d+|[IVXL]+\b)", text)) >= num_sections


def _highlights(text: str, num_highlights: int) -> bool:
    double = [m for m in re.findall(r"\*\*([^*\n]+)\*\*", text) if m.strip()]
    single = [m for m in re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text) if m.strip()]
    return len(double) + len(single) >= num_highlights


def _two_responses(text: str) -> bool:
    pieces = [p.strip() for p in text.split("******")]
    there = [p for p in pieces if p]
    return len(there) == 2 and there[0] != there[1] and all(pieces[1:-1] or ["x"])


def _json(text: str) -> bool:
    try:
        read_json(text.strip())
    except (ValueError, RecursionError):
        return False
    return True


def _language(text: str, language: str) -> bool:
    found = detect(text)
    return found is None or found == language


def _postscript(text: str, postscript_marker: str) -> bool:
    letters = [re.escape(c) + r"\.?\s?" for c in postscript_marker.replace(".", "")]
    return re.search(rf"(?im)(?:^|\s){''.join(letters)}", text) is not None


def _starts(text: str, start: str) -> bool:
    return text.strip().lower().startswith(start.strip().lower())


CHECKS: Mapping[str, Check] = {
    "change_case:capital_word_frequency": lambda t, capital_relation, capital_frequency: compare(
        sum(w.isupper() for w in words(t)), capital_relation, capital_frequency
    ),
    "change_case:english_capital": lambda t: t.isupper(),
    "change_case:english_lowercase": lambda t: t.islower(),
    "combination:repeat_prompt": lambda t, prompt_to_repeat: _starts(t, prompt_to_repeat),
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": lambda t, num_placeholders: (
        len(re.findall(r"\[[^\[\]]+\]", t)) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda t: any(
        f"My answer is {word}." in t for word in ("yes", "no", "maybe")
    ),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": lambda t, num_bullets: (
        len(re.findall(r"^\s*[*-](?![*-])\s*\S", t, re.MULTILINE)) == num_bullets
    ),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda t: any(m.strip() for m in re.findall(r"<<([^\n<>]+)>>", t)),
    "keywords:existence": lambda t, keywords: all(
        re.search(re.escape(k), t, re.IGNORECASE) for k in keywords
    ),
    "keywords:forbidden_words": lambda t, forbidden_words: (
        not any(occurrences(t, w) for w in forbidden_words)
    ),
    "keywords:frequency": lambda t, relation, keyword, frequency: compare(
        len(re.findall(re.escape(keyword), t, re.IGNORECASE)), relation, frequency
    ),
    "keywords:letter_frequency": lambda t, let_relation, letter, let_frequency: compare(
        t.lower().count(letter.lower()), let_relation, let_frequency
    ),
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _nth_first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": lambda t, relation, num_sentences: compare(
        sentences(t), relation, num_sentences
    ),
    "length_constraints:number_words": lambda t, relation, num_words: compare(
        len(words(t)), relation, num_words
    ),
    "punctuation:no_comma": lambda t: "," not in t,
    "startend:end_checker": lambda t, end_phrase: (
        t.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda t: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
}


def followed(text: str, kinds: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether a text follows each instruction; an empty one follows none. Unknown kinds are a RowError."""
    found = []
    for kind, given in zip(kinds, arguments, strict=True):
        if kind not in CHECKS:
            raise RowError(f"unknown instruction {kind!r}")
        try:
            right = CHECKS[kind](text, **{k: v for k, v in given.items() if v is not None})
        except TypeError as error:
            raise RowError(f"{kind}: {error}") from error
        found.append(bool(text.strip()) and right)
    return found


class ConstraintsSettings(RewardSettings):
    """Whether the answer follows the prompt's checkable instructions: all of them, or what share."""

    kind: Literal["constraints"] = "constraints"
    field: str = "instruction_ids"
    """Key of the prompt's meta with the list of instruction kinds."""
    arguments: str = "kwargs"
    """Key of the prompt's meta with the list of their arguments."""
    score: Literal["all", "share"] = "share"
    """1 only if every instruction is followed, or the share that is."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; the part of an instruction kind is the share of its instructions that are followed."""

        def judge(rollout: Rollout) -> dict[str, float]:
            kinds, given = reference(rollout, self.field), reference(rollout, self.arguments)
            if not kinds or len(kinds) != len(given):
                raise RowError(f"{self.field!r} and {self.arguments!r} are not lists of one length")
            marks = followed(rollout.text, kinds, given)
            share = sum(marks) / len(marks)
            value = share if self.score == "share" else float(all(marks))
            of_kind = {k: [m for m, x in zip(marks, kinds, strict=True) if x == k] for k in kinds}
            return {"followed": value, **{k: sum(m) / len(m) for k, m in of_kind.items()}}

        return Rule(name, judge, self)
