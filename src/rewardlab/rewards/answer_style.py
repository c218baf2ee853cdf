"""A composite of four surface rules, the kind of reward that is written by hand before a model is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from rewardlab.core.types import Rollout, Score

OPENER = re.compile(r"(sure|certainly|of course|absolutely|great question|as an ai)\b", re.IGNORECASE)
STRUCTURE = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#{1,6})\s+\S|\*\*\S[^*\n]*\*\*", re.MULTILINE)
SHORTEST, LONGEST = 60, 400
"""Words of a band within which length costs nothing."""


class AnswerStyle:
    """Mean of four parts in [0, 1], from the text of the answer alone.

    length_band: 1 between 60 and 400 words, falling in proportion outside; structure: 1 with a list, a
    heading or bold text; opener: 0 if it opens with a phrase such as "Sure" or "As an AI", else 1;
    repetition: share of distinct runs of four words, 1 for answers under four words. An empty answer is 0.
    """

    name = "answer_style"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [self._score(r.text) for r in rollouts]

    def _score(self, text: str) -> Score:
        words = text.lower().split()
        if not words:
            return Score(0.0)
        runs = list(zip(*(islice(words, i, None) for i in range(4))))
        parts = {
            "length_band": min(1.0, len(words) / SHORTEST, LONGEST / len(words)),
            "structure": float(bool(STRUCTURE.search(text))),
            "opener": float(not OPENER.match(text.lstrip())),
            "repetition": len(set(runs)) / len(runs) if runs else 1.0,
        }
        return Score(sum(parts.values()) / len(parts), parts=parts)
