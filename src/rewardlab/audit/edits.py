"""Edits of an answer that change one thing and keep the rest: pure functions of the text.

Every random choice is drawn from a generator seeded by the text itself, so an edit of an answer is the same
in every audit, whatever stands around it. Words are English.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from collections.abc import Callable

Edit = Callable[[str], str]

FILLER = (
    "That is a brief summary of the matter.",
    "There are of course several ways to look at it.",
    "These points are worth keeping in mind.",
)
"""Neutral English sentences that add nothing to any answer."""
CONTRACTIONS = {
    "do not": "don't",
    "does not": "doesn't",
    "is not": "isn't",
    "are not": "aren't",
    "cannot": "can't",
    "will not": "won't",
    "it is": "it's",
    "that is": "that's",
    "you are": "you're",
    "I am": "I'm",
}
SYNONYMS = {
    "big": "large",
    "large": "big",
    "begin": "start",
    "start": "begin",
    "help": "assist",
    "need": "require",
    "use": "employ",
    "quick": "fast",
    "fast": "quick",
    "buy": "purchase",
    "about": "around",
    "many": "numerous",
    "also": "additionally",
    "however": "yet",
    "important": "significant",
    "show": "demonstrate",
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def drawn(text: str, salt: str) -> random.Random:
    """A generator that depends on the text and the name of the edit alone."""
    digest = hashlib.blake2b(f"{salt}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


def sentences(text: str) -> list[str]:
    """Split behind full stops, question and exclamation marks."""
    return [s for s in _SENTENCE.split(text.strip()) if s]


def with_prefix(prefix: str) -> Edit:
    """The words in front of the answer."""
    return lambda text: f"{prefix} {text}".rstrip()


def with_suffix(suffix: str) -> Edit:
    """The words behind the answer."""
    return lambda text: f"{text.rstrip()} {suffix}".lstrip()


def filler(text: str) -> str:
    """Three empty sentences behind the answer."""
    return with_suffix(" ".join(FILLER))(text)


def repeated(text: str) -> str:
    """The answer said twice."""
    return f"{text.rstrip()} {text.strip()}".strip()


def shuffled(text: str) -> str:
    """The sentences in another order; the text itself if it has fewer than two."""
    before = sentences(text)
    after = list(before)
    rng = drawn(text, "shuffled")
    for _ in range(10):
        rng.shuffle(after)
        if after != before:
            return " ".join(after)
    return text


def bulleted(text: str) -> str:
    """Each sentence as an item of a list."""
    return "\n".join(f"- {s}" for s in sentences(text))


def markdown(text: str) -> str:
    """A heading, and the first words of each sentence in bold."""
    lines = []
    for sentence in sentences(text):
        head, _, rest = sentence.partition(" ")
        lines.append(f"**{head}** {rest}".rstrip())
    return "## Answer\n\n" + "\n\n".join(lines)


def typos(text: str) -> str:
    """Two neighbouring letters swapped inside about one in eight of the longer words, at least one."""
    rng = drawn(text, "typos")
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha()]
    for i in rng.sample(long, min(len(long), max(1, len(words) // 8))):
        at = rng.randrange(1, len(words[i]) - 2)
        word = words[i]
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _replaced(text: str, table: dict[str, str]) -> str:
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, table)) + r")\b", re.IGNORECASE)
    lower = {k.lower(): v for k, v in table.items()}

    def other(match: re.Match[str]) -> str:
        new = lower[match[0].lower()]
        return new[0].upper() + new[1:] if match[0][0].isupper() else new

    return pattern.sub(other, text)


def contracted(text: str) -> str:
    """`do not` -> `don't` and the like."""
    return _replaced(text, CONTRACTIONS)


def synonyms(text: str) -> str:
    """Common words replaced by their synonyms from a table."""
    return _replaced(text, SYNONYMS)


def curly(text: str) -> str:
    """Placebo: typographic apostrophes and quotation marks."""
    return re.sub(r'"([^"]*)"', "“\\1”", text.replace("'", "’"))


def spaced(text: str) -> str:
    """Placebo: one space doubled, drawn by content."""
    gaps = [m.start() for m in re.finditer(r"(?<=\S) (?=\S)", text)]
    if not gaps:
        return text
    at = drawn(text, "spaced").choice(gaps)
    return f"{text[:at]} {text[at:]}"


def trailing(text: str) -> str:
    """Placebo: a line break at the end."""
    return f"{text}\n"


def decomposed(text: str) -> str:
    """Unicode NFD: the same characters to a reader, other code points."""
    return unicodedata.normalize("NFD", text)


def composed(text: str) -> str:
    """Unicode NFC."""
    return unicodedata.normalize("NFC", text)
