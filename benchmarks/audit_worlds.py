"""Text whose quality is known, and rewards that see it with a little noise: what the audit is tried on.

A prompt asks about some subjects; a sentence about one of them is worth a point, any other sentence nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rewardlab.core.types import Message, Pair, Rollout, Score

SUBJECTS = ("cost", "time", "tools", "risk", "size", "taste", "noise", "repair", "origin", "storage")
IDLE = ("People talk about it.", "It comes up now and then.", "Some like it.", "It is an old matter.")


def quality(prompt: str, answer: str) -> float:
    """How many of the subjects that the prompt asks for the answer names."""
    words = set(answer.lower().replace(".", " ").split())
    return float(len(words & set(prompt.lower().replace("?", " ").replace(",", " ").split()) & set(SUBJECTS)))


def pairs(n: int, seed: int) -> list[Pair]:
    """Pairs with labels drawn from sigmoid(quality difference); length is independent of quality."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        asked = [str(s) for s in rng.permutation(SUBJECTS)]
        prompt = f"Case {seed}-{i}: what about {', '.join(asked[:6])}?"
        texts = []
        for good in rng.integers(0, 7, 2):
            parts = [f"The {s} of it is known." for s in asked[:good]]
            parts += [str(s) for s in rng.choice(IDLE, int(rng.integers(7, 13)) - len(parts))]
            texts.append(" ".join(str(s) for s in rng.permutation(parts)))
        value = [quality(prompt, t) for t in texts]
        p = float(1 / (1 + np.exp(value[1] - value[0])))
        win = int(rng.random() >= p)
        meta = {
            "gold_chosen": value[win],
            "gold_rejected": value[1 - win],
            "p_chosen": p if win == 0 else 1 - p,
        }
        answers = [(Message("assistant", texts[k]),) for k in (win, 1 - win)]
        out.append(Pair((Message("user", prompt),), *answers, id=f"{seed}-{i}", meta=meta))
    return out


class NoisyQuality:
    """Quality plus normal noise that is a function of seed, prompt and answer."""

    def __init__(self, seed: int, noise: float = 0.1) -> None:
        self.name, self.seed, self.noise = f"quality-{seed}", seed, noise

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return [Score(self.value(r.prompt.messages[-1].content, r.text)) for r in rollouts]

    def value(self, prompt: str, text: str) -> float:
        """The score of one answer; white space at the ends and between words does not count."""
        digest = hashlib.blake2b(f"{self.seed}\0{prompt}\0{' '.join(text.split())}".encode(), digest_size=8)
        drawn = np.random.default_rng(int.from_bytes(digest.digest(), "big")).standard_normal()
        return quality(prompt, text) + self.noise * float(drawn)
