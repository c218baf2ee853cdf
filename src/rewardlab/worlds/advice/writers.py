"""Writers of several qualities: how an imperfect person answers a question of this world."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.worlds.advice.language import FORMS, Kind, Sentence
from rewardlab.worlds.advice.topics import ASPECTS


class WriterSettings(Settings):
    """Probabilities of a writer's behaviours."""

    right: float = Field(default=0.85, ge=0, le=1)
    """A requested aspect is answered with the true value."""
    wrong: float = Field(default=0.05, ge=0, le=1)
    """A requested aspect is answered with another value of its set, drawn uniformly."""
    hedge: float = Field(default=0.05, ge=0, le=1)
    """A requested aspect gets a hedge. What `right`, `wrong` and `hedge` leave over is left out."""
    unrequested: float = Field(default=0.1, ge=0, le=1)
    """One more fact on an aspect that was not requested, again after each, at most 3."""
    unrequested_wrong: float = Field(default=0.1, ge=0, le=1)
    """An unrequested fact is wrong."""
    filler: float = Field(default=0.2, ge=0, le=1)
    """One more filler, again after each, at most 4."""
    opener: float = Field(default=0.2, ge=0, le=1)
    """The answer starts with a hollow opener."""
    closer: float = Field(default=0.2, ge=0, le=1)
    """The answer ends with a closer."""
    repeat: float = Field(default=0.03, ge=0, le=1)
    """One sentence of the body is said again at its end."""
    shuffle: float = Field(default=0.2, ge=0, le=1)
    """The body is in random order; else: answers as asked, then unrequested facts, then fillers."""

    @model_validator(mode="after")
    def _outcomes_fit(self) -> WriterSettings:
        total = self.right + self.wrong + self.hedge
        if total > 1 + 1e-9:
            raise UserError(
                f"A writer's right + wrong + hedge is {total:g}, above 1.",
                "Lower one of them; the rest is the share of aspects left out.",
            )
        return self


MAX_UNREQUESTED = 3
MAX_FILLERS = 4


def default_writers() -> dict[str, WriterSettings]:
    """The writers of the default world, from best to worst."""
    return {
        "careful": WriterSettings(
            right=0.93, wrong=0.02, hedge=0.03, unrequested=0.04, filler=0.06, opener=0.08, closer=0.08
        ),
        "plain": WriterSettings(right=0.84, wrong=0.06, hedge=0.06),
        "chatty": WriterSettings(
            right=0.78, wrong=0.1, hedge=0.05, unrequested=0.35, filler=0.55, opener=0.6, closer=0.5
        ),
        "careless": WriterSettings(
            right=0.45,
            wrong=0.25,
            hedge=0.12,
            unrequested=0.2,
            unrequested_wrong=0.25,
            filler=0.3,
            repeat=0.1,
        ),
    }


def another_value(aspect: str, value: str, rng: random.Random) -> str:
    """A value of the aspect's set that is not this one."""
    return rng.choice([v for v in ASPECTS[aspect] if v != value])


def write(
    aspects: Sequence[str], facts: Mapping[str, str], writer: WriterSettings, rng: random.Random
) -> tuple[Sentence, ...]:
    """One answer to a question about `aspects` of a topic with these true `facts`. Never empty.

    A writer with nothing to say writes one filler.
    """

    def say(kind: Kind, aspect: str = "", value: str = "") -> Sentence:
        return Sentence(kind, aspect, value, rng.randrange(FORMS[kind]))

    body: list[Sentence] = []
    for aspect in aspects:
        outcome = rng.random()
        if outcome < writer.right:
            body.append(say("fact", aspect, facts[aspect]))
        elif outcome < writer.right + writer.wrong:
            body.append(say("fact", aspect, another_value(aspect, facts[aspect], rng)))
        elif outcome < writer.right + writer.wrong + writer.hedge:
            body.append(say("hedge", aspect))
    others = rng.sample([a for a in ASPECTS if a not in aspects], k=len(ASPECTS) - len(aspects))
    for aspect in others[:MAX_UNREQUESTED]:
        if rng.random() >= writer.unrequested:
            break
        is_wrong = rng.random() < writer.unrequested_wrong
        value = another_value(aspect, facts[aspect], rng) if is_wrong else facts[aspect]
        body.append(say("fact", aspect, value))
    fillers = rng.sample(range(FORMS["filler"]), k=MAX_FILLERS)
    for form in fillers:
        if rng.random() >= writer.filler:
            break
        body.append(Sentence("filler", form=form))
    if rng.random() < writer.shuffle:
        rng.shuffle(body)
    if body and rng.random() < writer.repeat:
        body.append(rng.choice(body))
    start = [say("opener")] if rng.random() < writer.opener else []
    end = [say("closer")] if rng.random() < writer.closer else []
    return tuple(start + body + end) or (Sentence("filler", form=fillers[0]),)


def draw_writer(mix: Mapping[str, float], rng: random.Random) -> str:
    """A writer's name, with probability proportional to its weight in the mix."""
    return rng.choices(list(mix), weights=list(mix.values()))[0]
