"""Describe and rebuild, without labels; and how far an answer stays behind the best known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.rewards.base import Oracle, Resolver, Reward, RewardSettings


class CycleConsistency:
    """similarity(x, decode(description of x)): an answer is as good as what can be rebuilt from it.

    `x` is in the prompt's meta under `field`; the answer describes it; `decode` turns a list of texts into
    objects like x, None where a text says nothing that can be built; `similarity` compares lists of
    objects, originals first, one number each (embed there if need be). An undecodable answer gets the value
    `invalid` with the part `valid` 0: it is the answer's failure. A missing x is an error.

    A policy can agree with its decoder on a private code; keep the decoder fixed and its input language
    narrow, and measure with another one. `warning` says so.
    """

    def __init__(
        self,
        name: str,
        decode: Callable[[list[str]], Sequence[Any]],
        similarity: Callable[[list[Any], list[Any]], Sequence[float]],
        *,
        field: str = "x",
        invalid: float = 0.0,
    ) -> None:
        self.name, self.decode, self.similarity = name, decode, similarity
        self.field, self.invalid = field, invalid
        self.warning = (
            f"{name} pays for whatever its decoder reads, a private code too; measure with another."
        )

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; all are decoded in one call and compared in one."""
        there = [i for i, r in enumerate(rollouts) if r.prompt.meta.get(self.field) is not None]
        rebuilt = list(self.decode([rollouts[i].text for i in there])) if there else []
        valid = [(i, x) for i, x in zip(there, rebuilt, strict=True) if x is not None]
        originals = [rollouts[i].prompt.meta[self.field] for i, _ in valid]
        values = self.similarity(originals, [x for _, x in valid]) if valid else []
        found = [
            Score.error(f"{r.prompt.place}: {self.name}: nothing in {self.field!r} to compare with")
            for r in rollouts
        ]
        for i in there:
            found[i] = Score(self.invalid, parts={self.name: self.invalid, "valid": 0.0})
        for (i, _), value in zip(valid, values, strict=True):
            found[i] = self._score(float(value))
        return found

    def _score(self, value: float) -> Score:
        if not math.isfinite(value):
            return Score.error(f"{self.name}: the similarity is {value}")
        return Score(value, parts={self.name: value, "valid": 1.0})


class Regret:
    """best - value: how far an answer stays behind the best that an oracle reaches on the same prompt.

    The oracle's answers stand in the prompt's meta under `field`, as texts that `reward` scores too or as
    numbers on its scale, or `oracle` gives them for a prompt; the best of them counts. Pays a proposer of
    tasks for tasks that can be solved and are not: an impossible task has a poor oracle and no regret.
    Negative where the answer beats the oracle. Without an oracle: an error. Where `reward` has no value,
    neither has this.
    """

    def __init__(
        self, name: str, reward: Reward, *, field: str = "oracle", oracle: Oracle | None = None
    ) -> None:
        self.name, self.reward, self.field, self.oracle = name, reward, field, oracle

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; the oracle's texts are scored in the same call."""
        oracles = [self._oracle(r) for r in rollouts]
        texts = [
            (i, Rollout(rollouts[i].prompt, Tokens((0,), (False,)), x, rollouts[i].group))
            for i, known in enumerate(oracles)
            for x in known
            if isinstance(x, str)
        ]
        scores = self.reward.score([*rollouts, *(r for _, r in texts)])
        best = [[float(x) for x in known if not isinstance(x, str)] for known in oracles]
        for (i, _), score in zip(texts, scores[len(rollouts) :], strict=True):
            if score.value is not None:
                best[i].append(score.value)
        own = scores[: len(rollouts)]
        return [self._score(r, s, b) for r, s, b in zip(rollouts, own, best, strict=True)]

    def _oracle(self, rollout: Rollout) -> list[str | float]:
        if self.oracle is not None:
            return list(self.oracle(rollout.prompt))
        known = rollout.prompt.meta.get(self.field, ())
        return [known] if isinstance(known, str | float | int) else list(known)

    def _score(self, rollout: Rollout, score: Score, best: list[float]) -> Score:
        if score.value is None:
            return score
        if not best:
            where = "of this prompt" if self.oracle else f"in {self.field!r}"
            return Score.error(f"{rollout.prompt.place}: {self.name}: no oracle value {where}")
        top = max(best)
        return Score(
            top - score.value, parts={self.name: top - score.value, "value": score.value, "best": top}
        )


class RegretSettings(RewardSettings):
    """How far an answer stays behind the oracle's best, by another reward."""

    kind: Literal["regret"] = "regret"
    reward: str
    """The reward that values both."""
    oracle: Literal["field", "world"] = "field"
    """`field`: in the prompt's meta; `world`: the best answer that the recipe's world knows."""
    field: str = "oracle"
    """Meta field of the prompt with the oracle's texts or values."""

    def references(self) -> list[str]:
        """The reward that values both."""
        return [self.reward]

    def build(self, name: str, resolver: Resolver) -> Regret:
        """The reward."""
        oracle = resolver.oracle() if self.oracle == "world" else None
        return Regret(name, resolver.reward(self.reward), field=self.field, oracle=oracle)
