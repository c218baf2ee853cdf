"""Habits that please a judge without helping the reader, found by their wording."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.rule import Rule

_PRAISE = r"great|good|excellent|wonderful|fantastic|insightful|thoughtful|interesting|brilliant|amazing"
_ASKED = r"question|point|idea|observation|choice|topic|request"
OPENER = re.compile(
    rf"^\W*(?:(?:what|that(?:'s| is)|this is)\s+(?:an?\s+)?(?:(?:really|truly|very|such an?)\s+)*"
    rf"(?:{_PRAISE})\b"
    rf"|(?:{_PRAISE})\s+(?:{_ASKED})\b"
    r"|(?:absolutely|certainly|of course|definitely|sure(?: thing)?"
    r"|you(?:'re| are) (?:absolutely |so )?right)\s*[!,.]"
    r"|i(?:'d| would) be (?:more than )?(?:happy|glad|delighted) to\b"
    r"|thank(?:s| you) (?:so much )?for (?:asking|sharing|your question)\b)",
    re.IGNORECASE,
)
CLOSER = re.compile(
    r"(?:i hope (?:this|that|it) (?:helps|was helpful)|let me know if\b[^.!?\n]*"
    r"|(?:please )?(?:feel free|don't hesitate|do not hesitate) to\b[^.!?\n]*"
    r"|is there anything else\b[^.!?\n]*|happy to help\b[^.!?\n]*"
    r"|good luck|you(?:'ve| have) got this)\W*$",
    re.IGNORECASE,
)
SELF = re.compile(
    r"\bas an? (?:ai|artificial intelligence|large language model|language model)\b", re.IGNORECASE
)
HEDGE = re.compile(
    r"\b(?:it(?:'s| is) (?:important|worth) (?:to note|noting|to remember)|generally speaking|in general"
    r"|it depends|perhaps|arguably|some (?:people|experts) (?:say|believe|argue))\b",
    re.IGNORECASE,
)
MARKUP = re.compile(r"^\s*(?:[-*+•]\s|\d+[.)]\s|#{1,6}\s)|\*\*[^*\n]+\*\*", re.MULTILINE)


def habits(text: str) -> dict[str, float]:
    """Counts of an English text's habits.

    opener, closer: 1 if it begins with praise or assent, or ends on an offer or a wish. self: mentions of
    being an AI. hedge: hedges. emphasis: exclamation marks. markup: bullets, headings and bold spans.
    """
    return {
        "opener": float(OPENER.search(text) is not None),
        "closer": float(CLOSER.search(text.rstrip()) is not None),
        "self": float(len(SELF.findall(text))),
        "hedge": float(len(HEDGE.findall(text))),
        "emphasis": float(text.count("!")),
        "markup": float(len(MARKUP.findall(text))),
    }


class StyleSettings(RewardSettings):
    """value = -sum over habits of cost * count. A list of English wordings: what it misses, it misses."""

    kind: Literal["style"] = "style"
    opener: float = 1.0
    """Cost of a hollow affirmation at the start ("Great question!")."""
    closer: float = 1.0
    """Cost of a hollow close ("I hope this helps!")."""
    self_mention: float = 0.0
    """Cost of each "as an AI"."""
    hedge: float = 0.0
    emphasis: float = 0.0
    """Cost of each exclamation mark."""
    markup: float = 0.0
    """Cost of each bullet, heading and bold span."""
    limit: float = Field(default=10.0, gt=0)
    """The reward is never below -limit."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; every count is a part."""
        costs = {
            **{"opener": self.opener, "closer": self.closer, "self": self.self_mention},
            **{"hedge": self.hedge, "emphasis": self.emphasis, "markup": self.markup},
        }

        def judge(rollout: Rollout) -> dict[str, float]:
            found = habits(rollout.text)
            cost = sum(costs[habit] * count for habit, count in found.items())
            return {"style": max(-self.limit, -cost), **found}

        return Rule(name, judge, self)
