"""The gold reward: what an answer is really worth, computed exactly from its sentences.

For an answer to k requested aspects, with n[x] the number of sentences of kind x:

    recall      = (aspects with a right fact and no wrong one) / k
    hedge       = hedge/k per requested aspect that has a hedge and no fact
                  - misplaced_hedge per hedge on an aspect that has a fact or was not requested
    wrong       = -wrong * n[wrong facts, requested or not]
    filler, opener, closer, noise = -weight * n[that kind]
    unrequested = -unrequested * n[facts on aspects that were not requested, right or wrong]
    repeated    = -repeated * n[sentences that say what an earlier sentence said], on top of the above
    over_length = -over_length * max(0, sentences - (k + spare_sentences))
    silent      = -silent if no requested aspect has a fact or a hedge (so also for an empty answer)
    gold        = clip(sum of these parts, -1, 1)

With everything else equal and clipping aside: right > hedge > silence > wrong on each aspect; a filler
or a repetition never helps. One exception, by weights: a hedge that exceeds the budget loses to silence
where hedge / k < over_length (with the defaults: more than 5 aspects, which is above the default
max_aspects). A perfect answer is k right facts and nothing else: gold 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Rollout, Score
from rewardlab.worlds.advice.language import Sentence, parse
from rewardlab.worlds.advice.topics import ASPECTS, Topics


class GoldSettings(Settings):
    """Weights of the gold reward. All are costs per sentence unless they say otherwise."""

    wrong: float = Field(default=0.3, ge=0)
    """Cost of each wrong fact, requested or not."""
    hedge: float = Field(default=0.25, ge=0, lt=1)
    """Credit of a hedge on an unanswered requested aspect, as a share of the credit of a right fact."""
    misplaced_hedge: float = Field(default=0.05, ge=0)
    """Cost of a hedge on an aspect that is also answered or was not requested."""
    filler: float = Field(default=0.05, ge=0)
    """Cost of each filler sentence."""
    opener: float = Field(default=0.05, ge=0)
    """Cost of each hollow opener."""
    closer: float = Field(default=0.05, ge=0)
    """Cost of each closer."""
    noise: float = Field(default=0.15, ge=0)
    """Cost of each sentence that the parser cannot read."""
    unrequested: float = Field(default=0.05, ge=0)
    """Cost of each fact on an aspect that was not requested; a wrong one pays `wrong` as well."""
    repeated: float = Field(default=0.1, ge=0)
    """Cost of saying again what an earlier sentence said, on top of what the sentence costs anyway."""
    over_length: float = Field(default=0.05, ge=0)
    """Cost of each sentence beyond the budget."""
    spare_sentences: int = Field(default=1, ge=0)
    """The budget is this many sentences more than there are requested aspects."""
    silent: float = Field(default=0.1, ge=0)
    """Cost, once, of an answer that addresses no requested aspect; the empty answer is worth minus this."""

    @model_validator(mode="after")
    def _silence_beats_wrong(self) -> GoldSettings:
        if self.silent > self.wrong:
            raise UserError(
                f"With silent={self.silent} and wrong={self.wrong}, a wrong fact is worth more than none.",
                "Set silent to at most wrong.",
            )
        return self


def gold_parts(
    sentences: Sequence[Sentence], aspects: Sequence[str], facts: Mapping[str, str], weights: GoldSettings
) -> dict[str, float]:
    """The named parts of the gold value, costs negative; they sum to the unclipped value.

    `facts` are the true values of the topic by aspect; `aspects` the requested ones (at least one).
    """
    requested = set(aspects)
    told = [s for s in sentences if s.kind == "fact"]
    hedged = [s for s in sentences if s.kind == "hedge"]
    answered = {s.aspect for s in told}
    wrong = [s for s in told if facts[s.aspect] != s.value]
    right = answered - {s.aspect for s in wrong}
    open_aspects = requested - answered
    calibrated = {s.aspect for s in hedged} & open_aspects
    misplaced = sum(s.aspect not in open_aspects for s in hedged)
    repeats = len(sentences) - len({s.content for s in sentences})
    excess = max(0, len(sentences) - (len(requested) + weights.spare_sentences))
    kinds = [s.kind for s in sentences]
    addressed = bool(answered & requested) or bool(calibrated)
    return {
        "recall": len(right & requested) / len(requested),
        "hedge": weights.hedge * len(calibrated) / len(requested) - weights.misplaced_hedge * misplaced,
        "wrong": -weights.wrong * len(wrong),
        "filler": -weights.filler * kinds.count("filler"),
        "opener": -weights.opener * kinds.count("opener"),
        "closer": -weights.closer * kinds.count("closer"),
        "noise": -weights.noise * kinds.count("noise"),
        "unrequested": -weights.unrequested * sum(s.aspect not in requested for s in told),
        "repeated": -weights.repeated * repeats,
        "over_length": -weights.over_length * excess,
        "silent": 0.0 if addressed else -weights.silent,
    }


def gold_value(parts: Mapping[str, float]) -> float:
    """The sum of the parts, clipped to [-1, 1]."""
    return max(-1.0, min(1.0, sum(parts.values())))


class GoldReward:
    """The gold reward of one world as a `Reward`: reads `prompt.meta` and the answer's text."""

    name = "gold"

    def __init__(self, topics: Topics, weights: GoldSettings, world_seed: int) -> None:
        self._topics = topics
        self._weights = weights
        self._seed = world_seed

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; an error, never a 0, for a prompt that is not of this world."""
        return [self.score_text(r.text, r.prompt.meta) for r in rollouts]

    def score_text(self, text: str, meta: Mapping[str, Any]) -> Score:
        """The gold score of a text as the answer to the prompt with this `meta`."""
        problem = self._foreign(meta)
        if problem:
            return Score.error(problem)
        parts = gold_parts(parse(text), meta["aspects"], self._topics.facts[meta["topic"]], self._weights)
        return Score(gold_value(parts), parts=parts)

    def _foreign(self, meta: Mapping[str, Any]) -> str:
        """Why this is not a question of this world; empty if it is. `world_seed` may be missing."""
        if meta.get("world") != "advice":
            return f"The prompt's world is {meta.get('world')!r}, not 'advice'."
        if meta.get("world_seed", self._seed) != self._seed:
            return f"The prompt is of world_seed {meta['world_seed']!r}, not {self._seed}."
        topic, aspects = meta.get("topic"), meta.get("aspects")
        if not isinstance(topic, str) or topic not in self._topics.facts:
            return f"This world has no topic {topic!r}."
        if not isinstance(aspects, list | tuple) or not aspects or not all(a in [*ASPECTS] for a in aspects):
            return f"The requested aspects {aspects!r} are not aspects of this world."
        return ""
