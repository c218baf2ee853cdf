"""The labeller: sees the gold value through length bias, opener bias, noise and flips.

    u(x)   = gold_scale * gold + length_bias * log(max(words, 1)) + opener_bias * [has a hollow opener]
    picks the larger of u(a) + noise * g_a and u(b) + noise * g_b, with g standard Gumbel, then flips
    with probability flip, so

    P(a > b) = (1 - flip) * s + flip * (1 - s),   s = sigmoid((u(a) - u(b)) / noise)

since the difference of two Gumbels is logistic: a Bradley-Terry labeller (Bradley and Terry 1952) whose
utility is biased. noise = 0 makes s a step function that is 0.5 at a tie.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Pair


class LabellerSettings(Settings):
    """How the labeller's taste differs from gold."""

    gold_scale: float = 3.0
    """Utility per unit of gold."""
    length_bias: float = 0.8
    """Utility per natural log of the length in words; positive: likes long answers."""
    opener_bias: float = 0.6
    """Utility of a hollow opener; positive: likes to be flattered."""
    noise: float = Field(default=0.5, ge=0)
    """Scale of the Gumbel noise on each utility; 0: no noise."""
    flip: float = Field(default=0.05, ge=0, le=1)
    """Probability that the finished label is turned round."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the labeller reacts to in one answer."""

    gold: float
    words: int
    opener: bool


class Labeller:
    """A labeller with one taste; stateless, so every draw takes its generator."""

    def __init__(self, settings: LabellerSettings) -> None:
        self.settings = settings

    def utility(self, answer: Seen) -> float:
        """The utility without noise."""
        s = self.settings
        length = s.length_bias * math.log(max(answer.words, 1))
        return s.gold_scale * answer.gold + length + s.opener_bias * answer.opener

    def rating(self, answer: Seen, rng: random.Random) -> float:
        """The utility as the labeller feels it once: with Gumbel noise, never flipped; one draw."""
        return self.utility(answer) + self.settings.noise * _gumbel(rng.random())

    def probability(self, a: Seen, b: Seen) -> float:
        """The exact probability that the label says a is the better one."""
        difference = self.utility(a) - self.utility(b)
        if self.settings.noise > 0:
            # 0.5 * (1 + tanh(x / 2)) is the sigmoid, without overflow at large differences.
            prefers = 0.5 * (1 + math.tanh(difference / self.settings.noise / 2))
        else:
            prefers = 0.5 if difference == 0 else float(difference > 0)
        return (1 - self.settings.flip) * prefers + self.settings.flip * (1 - prefers)

    def prefers_first(self, a: Seen, b: Seen, rng: random.Random) -> bool:
        """A sampled label, by noise and flip as described (not by the closed form).

        Always four draws, so that a generator shared by many labels stays in step when knobs change.
        """
        uniforms = [rng.random() for _ in range(4)]
        noise_a, noise_b = (_gumbel(u) for u in uniforms[:2])
        noisy_a = self.utility(a) + self.settings.noise * noise_a
        noisy_b = self.utility(b) + self.settings.noise * noise_b
        first = noisy_a > noisy_b if noisy_a != noisy_b else uniforms[2] < 0.5
        return first != (uniforms[3] < self.settings.flip)


def _gumbel(uniform: float) -> float:
    return -math.log(-math.log(max(uniform, 1e-300)))


def bayes_accuracy(pairs: Sequence[Pair]) -> float:
    """mean max(p, 1 - p) over `meta["p_chosen"]`: the ceiling of any predictor of these labels.

    It is the expected accuracy of the predictor that knows every true probability; on a finite set of
    sampled labels a predictor can land above it only by luck.
    """
    if not pairs:
        raise UserError("The Bayes accuracy of no pairs is not defined.", "Ask for at least one pair.")
    chances = [float(p.meta["p_chosen"]) for p in pairs]
    return sum(max(p, 1 - p) for p in chances) / len(chances)
