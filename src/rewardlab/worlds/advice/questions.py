"""The questions of the world: a topic, one or more aspects, and a wording."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from rewardlab.worlds.advice.topics import ASPECTS

WORDINGS = (
    "How do I {topic}? Please cover {aspects}.",
    "I want to {topic}. Tell me about {aspects}.",
    "Help me {topic}. What about {aspects}?",
    "Can you explain how to {topic}? I care about {aspects}.",
    "What should I know about {aspects} to {topic}?",
    "My plan is to {topic}. I need advice on {aspects}.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. The aspects are in the order of `ASPECTS`."""

    topic: str
    aspects: tuple[str, ...]
    wording: int

    @property
    def text(self) -> str:
        """The question in English: `time`, `time and cost`, `time, cost and tools`."""
        *first, last = self.aspects
        listed = f"{', '.join(first)} and {last}" if first else last
        return WORDINGS[self.wording].format(topic=self.topic, aspects=listed)


def questions(topics: Sequence[str], max_aspects: int, rng: random.Random) -> Iterator[Question]:
    """An endless stream of questions, without a repeat until every possible one was asked.

    The number of aspects is uniform over 1..max_aspects while no size has run out; 48 topics have
    2,304 / 8,064 / 16,128 / 20,160 distinct questions with 1 / 2 / 3 / 4 aspects. Then it starts over.
    """
    subsets = {size: list(combinations(ASPECTS, size)) for size in range(1, max_aspects + 1)}
    while True:
        pools = {size: list(range(len(topics) * len(subsets[size]) * len(WORDINGS))) for size in subsets}
        for pool in pools.values():
            rng.shuffle(pool)
        while left := [size for size, pool in pools.items() if pool]:
            size = rng.choice(left)
            rest, wording = divmod(pools[size].pop(), len(WORDINGS))
            topic, subset = divmod(rest, len(subsets[size]))
            yield Question(topics[topic], subsets[size][subset], wording)
