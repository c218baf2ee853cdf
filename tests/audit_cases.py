"""Pairs with a known quality and rewards with a planted defect, shared by the audit's tests."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from collections.abc import Sequence as Rows

import numpy as np

from rewardlab.audit import ScoredSubject, full_audit
from rewardlab.audit.sections import chosen_sections
from rewardlab.core.types import Message, Pair, Rollout, Score

SUBJECTS = ("cost", "time", "tools", "risk", "size", "taste", "noise", "repair")
IDLE = ("People do not talk about it.", "It comes up now and then.", "Some use it.", "Café owners like it.")
Value = Callable[[str, str], float]


def quality(prompt: str, answer: str) -> float:
    """Subjects that the prompt asks for and the answer says something about."""
    asked, said = re.findall(r"\w+", prompt), re.findall(r"(\w+) of it", answer)
    return float(len(set(asked) & set(said)))


def world(n: int = 200, seed: int = 0, **meta) -> list[Pair]:
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        asked = [str(s) for s in rng.permutation(SUBJECTS)[:5]]
        prompt = f"Case {i}: what about {', '.join(asked)}?"
        texts = []
        for good in rng.integers(0, 6, 2):
            parts = [f"The {s} of it is known." for s in asked[:good]]
            parts += [str(s) for s in rng.choice(IDLE, int(rng.integers(7, 11)) - len(parts))]
            texts.append(" ".join(str(s) for s in rng.permutation(parts)))
        values = [quality(prompt, t) for t in texts]
        win = int(rng.random() >= 1 / (1 + np.exp(values[1] - values[0])))
        facts = {"gold_chosen": values[win], "gold_rejected": values[1 - win], **meta}
        chosen, rejected = ((Message("assistant", texts[k]),) for k in (win, 1 - win))
        pairs.append(Pair((Message("user", prompt),), chosen, rejected, id=str(i), meta=facts))
    return pairs


PAIRS = world()


def noise(text: str) -> float:
    return random.Random(" ".join(text.split())).gauss(0, 0.05)


def clean(prompt: str, text: str) -> float:
    return quality(prompt, text) + noise(prompt + text)


def reward(value: Value) -> Callable[[Rows[Rollout]], list[Score]]:
    return lambda rows: [Score(float(value(r.prompt.messages[-1].content, r.text))) for r in rows]


def audit(value: Value, *sections: str, pairs: list[Pair] = PAIRS, **more) -> dict:
    subject = ScoredSubject("r", reward(value))
    return audit_subject(subject, *sections, pairs=pairs, **more)


def audit_subject(subject, *sections: str, pairs: list[Pair] = PAIRS, **more) -> dict:
    settings = {"probe_pairs": 80, "attack_calls": 600, **more}
    return full_audit(subject, pairs, seed=0, sections=chosen_sections(sections), **settings)


def measures(card: dict, section: str) -> dict[str, dict]:
    return {m["name"]: m for m in card["sections"][section]["measures"]}
