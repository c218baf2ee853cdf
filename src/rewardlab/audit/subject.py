"""What is audited: a reward that scores answers, or a judge that compares two, behind one question.

Both answer `margins`: by how much is the first answer of each pair better? For a reward it is the difference
of scores; for a judge the log-odds of its preference, averaged over both orders, so that a habit of picking
the first answer cannot pass for a preference (the habit itself is measured in `invariance`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rewardlab.audit.scoring import Fill, Scorer, score_all
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.judges.base import Comparison, Judge

Floats = NDArray[np.float64]
Two = tuple[Rollout, Rollout]
SURE = 0.01
"""A judge's certainty is read as 99%, since log-odds of 1 are infinite."""


class Subject(Protocol):
    """A reward or a judge under audit."""

    name: str
    pairwise: bool

    def margins(self, pairs: Sequence[Two], *, fresh: bool = False) -> Floats:
        """Float[P]: by how much the first answer is better; nan where there is no value.

        `fresh` asks the reward again instead of the cache.
        """
        ...


class Cache:
    """Values by content, in memory and, with a file, on disk as one JSON line each.

    A line that a killed process left unfinished is skipped, so an audit that starts again pays only for
    what is missing.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.values: dict[str, tuple[float | None, str, str]] = {}
        self.file = file
        self.calls = 0
        """Answers (or comparisons) that were really asked of the reward."""
        self._torn = False
        if file is not None and file.is_file():
            text = file.read_text(encoding="utf-8")
            self._torn = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    key, value, status, reason = json.loads(line)
                except ValueError:
                    continue
                self.values[key] = (value, status, reason)

    def add(self, new: dict[str, tuple[float | None, str, str]]) -> None:
        """Remember, on disk first."""
        self.calls += len(new)
        if self.file is not None and new:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as out:
                out.write("\n" if self._torn else "")
                out.writelines(json.dumps([key, *entry]) + "\n" for key, entry in new.items())
            self._torn = False
        self.values |= new


def content_key(*rollouts: Rollout) -> str:
    """A digest of the prompt, what its meta tells a reward, and the answers."""
    prompt = rollouts[0].prompt
    told = [[m.role, m.content] for m in prompt.messages], dict(prompt.meta)
    text = json.dumps([told, [r.text for r in rollouts]], default=str, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


CHUNK = 2048
"""Answers asked at once; what a kill can lose of a finished call."""


class ScoredSubject:
    """A reward; each distinct (prompt, answer) is scored once."""

    pairwise = False

    def __init__(self, name: str, score: Scorer, *, fill: Fill | None = None, file: Path | None = None):
        self.name, self._score, self._fill = name, score, fill
        self.cache = Cache(file)

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout, from the cache where it is there."""
        keys = [content_key(r) for r in rollouts]
        missing = {k: r for k, r in zip(keys, rollouts) if k not in self.cache.values}
        wanted = list(missing.items())
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            found = self.ask([r for _, r in part])
            self.cache.add({k: (s.value, s.status, s.reason) for (k, _), s in zip(part, found)})
        return [_score(self.cache.values[k]) for k in keys]

    def ask(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout from the reward itself, in one call."""
        filled = [r if self._fill is None else self._fill(r) for r in rollouts]
        return score_all(self._score, filled)

    def values(self, rollouts: Sequence[Rollout], *, fresh: bool = False) -> Floats:
        """Float[N], nan where the reward abstained or failed."""
        scores = self.ask(rollouts) if fresh and rollouts else self.scores(rollouts)
        return np.array([np.nan if s.value is None else s.value for s in scores], dtype=np.float64)

    def margins(self, pairs: Sequence[Two], *, fresh: bool = False) -> Floats:
        """Float[P]: score of the first minus that of the second."""
        table = self.values([r for pair in pairs for r in pair], fresh=fresh).reshape(-1, 2)
        margin: Floats = table[:, 0] - table[:, 1]
        return margin


class JudgedSubject:
    """A pairwise judge; each ordered pair is judged once."""

    pairwise = True

    def __init__(self, judge: Judge, *, file: Path | None = None) -> None:
        self.name, self._judge = judge.name, judge
        self.cache = Cache(file)

    def first(self, pairs: Sequence[Two], *, fresh: bool = False) -> Floats:
        """Float[P]: the judge's probability that the first answer shown is better; nan without a verdict."""
        if fresh:
            return np.array([np.nan if c.first is None else c.first for c in self._ask(pairs)])
        keys = [content_key(*pair) for pair in pairs]
        wanted = list({k: p for k, p in zip(keys, pairs) if k not in self.cache.values}.items())
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            found = self._ask([p for _, p in part])
            self.cache.add({k: (c.first, c.status, c.reason) for (k, _), c in zip(part, found)})
        values = [self.cache.values[k][0] for k in keys]
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def _ask(self, pairs: Sequence[Two]) -> list[Comparison]:
        found = list(self._judge.compare(pairs)) if pairs else []
        if len(found) != len(pairs):
            raise UserError(
                f"The judge {self.name} returned {len(found)} comparisons for {len(pairs)} pairs.",
                "Return one Comparison per pair, in order; Comparison.error(reason) where there is none.",
            )
        return found

    def margins(self, pairs: Sequence[Two], *, fresh: bool = False) -> Floats:
        """Float[P]: log-odds of the preference for the first answer, averaged over both orders."""
        forward = self.first(pairs, fresh=fresh)
        backward = self.first([(b, a) for a, b in pairs], fresh=fresh)
        odds: Floats = special.logit(np.clip((forward + 1 - backward) / 2, SURE, 1 - SURE))
        return odds


def _score(entry: tuple[float | None, str, str]) -> Score:
    value, status, reason = entry
    if status == "abstain":
        return Score.abstain(reason)
    return Score.error(reason) if value is None else Score(value)
