"""How different an answer is from the others of its group, alone or times a quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.groups import by_group

Floats = NDArray[np.float64]
Distances = Callable[[Sequence[str]], Floats]
"""Texts of a group to a symmetric Float[G, G] in [0, 1] with a zero diagonal."""
Measure = Literal["distinct", "novelty", "spread", "classes"]


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of the text's lower-case words; a shorter text is one n-gram of all its words."""
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))] if words else []


def distinct(text: str, n: int) -> float:
    """distinct-n: different n-grams / n-grams; 0 for an empty text. Falls with length by itself."""
    found = ngrams(text, n)
    return len(set(found)) / len(found) if found else 0.0


def novelty(texts: Sequence[str], n: int) -> list[float]:
    """1 - overlap: the share of each text's n-grams that no other of the group has; 0 for an empty text."""
    sets = [set(ngrams(t, n)) for t in texts]
    owners: dict[tuple[str, ...], int] = {}
    for gram in (g for s in sets for g in s):
        owners[gram] = owners.get(gram, 0) + 1
    return [sum(owners[g] == 1 for g in s) / len(s) if s else 0.0 for s in sets]


def ngram_distances(texts: Sequence[str], n: int = 2) -> Floats:
    """1 - |A and B| / |A or B| of the n-gram sets; two empty texts are equal."""
    sets = [set(ngrams(t, n)) for t in texts]
    return np.array([[1 - len(a & b) / len(a | b) if a | b else 0.0 for b in sets] for a in sets])


class StateDistances:
    """(1 - cosine) / 2 of a model's last hidden states, averaged over the words of the text alone.

    The group's mean state is not taken off, and states of language models point in similar directions, so
    distances are small; use them for ranking, or set the threshold of `classes` from data. A text without
    a token has distance 1/2 to every other.
    """

    def __init__(self, engine: Engine, *, max_tokens: int = 1024) -> None:
        self.engine, self.max_tokens = engine, max_tokens

    def __call__(self, texts: Sequence[str]) -> Floats:
        tokenizer = self.engine.model.tokenizer
        ids = [tuple(tokenizer(t, add_special_tokens=False)["input_ids"][: self.max_tokens]) for t in texts]
        width = int(self.engine.model.hf.config.get_text_config().hidden_size)
        unit = torch.zeros(len(texts), width, dtype=torch.float64)
        there = [i for i, row in enumerate(ids) if row]
        if there:
            batch = Batch.pack([Tokens(ids[i], (False,) * len(ids[i])) for i in there])
            with self.engine.frozen():
                for chosen in self.engine.split(batch):
                    micro = batch.select(chosen).to(self.engine.model.device)
                    states = self.engine.hidden(micro).double().cpu()
                    mean = torch.zeros(micro.size, width, dtype=torch.float64)
                    mean = mean.index_add(0, micro.seq.cpu(), states) / micro.lengths.cpu()[:, None]
                    unit[[there[at] for at in chosen]] = torch.nn.functional.normalize(mean, dim=1)
        found = ((1 - unit @ unit.T) / 2).clamp(0, 1)
        return np.asarray(found.fill_diagonal_(0.0).numpy(), dtype=np.float64)


def classes(distances: Floats, threshold: float) -> list[int]:
    """The class of each text: connected parts of the graph of pairs closer than the threshold."""
    label = list(range(len(distances)))
    for a, b in zip(*np.nonzero(distances < threshold), strict=True):
        old, new = label[a], label[b]
        label = [new if x == old else x for x in label]
    return label


def class_share(distances: Floats, threshold: float) -> list[float]:
    """d_i = (G - |class of i|) / (G - 1): the share of the others that say something else. G > 1."""
    found = classes(distances, threshold)
    return [(len(found) - found.count(x)) / (len(found) - 1) for x in found]


class Diversity:
    """What sets an answer apart from its group, in [0, 1].

    distinct: distinct-n of the text by itself. novelty: share of its n-grams that no other answer has.
    spread: mean distance to the others. classes: share of the others in another class, where answers
    closer than `threshold` are in one class and classes are transitive.

    All but `distinct` compare answers of one group; in a group of one they abstain. Paid alone, any of these
    rewards nonsense: multiply with a quality (`QualityDiversity`). `warning` says so.
    """

    def __init__(
        self,
        name: str,
        measure: Measure = "classes",
        *,
        n: int = 2,
        distances: Distances | None = None,
        threshold: float = 0.5,
    ) -> None:
        if n < 1:
            raise UserError(f"{name}: n-grams of {n} words.", "Use n of at least 1.")
        self.name, self.n, self.threshold = name, n, threshold
        self.measure: Measure = measure
        self.distances: Distances = distances or (lambda texts: ngram_distances(texts, n))
        self.warning = f"{name} pays for being different; alone it rewards nonsense, so give it a `quality`."

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        found: list[Score] = [Score.abstain(f"{self.name}: nothing to compare with")] * len(rollouts)
        for group in by_group(rollouts):
            if len(group) > 1 or self.measure == "distinct":
                for i, value in zip(group, self.values([rollouts[i].text for i in group]), strict=True):
                    found[i] = Score(value, parts={self.name: value})
        return found

    def values(self, texts: Sequence[str]) -> list[float]:
        """The measure of each text of a group; more than one text, except for `distinct`."""
        if self.measure == "distinct":
            return [distinct(t, self.n) for t in texts]
        if self.measure == "novelty":
            return novelty(texts, self.n)
        distances = self.distances(texts)
        if self.measure == "classes":
            return class_share(distances, self.threshold)
        found: list[float] = (distances.sum(1) / (len(texts) - 1)).tolist()
        return found


class QualityDiversity:
    """quality_i * max(diversity_i, floor), diversity measured among the group's answers that have a quality.

    Li et al. 2025, "Jointly Reinforcing Diversity and Quality in Language Model Generations" (DARLING,
    arXiv 2509.02534), with `classes` of equal meaning. A product cannot be earned by nonsense as a sum can.
    The quality should be 0 or more: times a diversity, a negative one would pay for being common, so it is an
    error. With `among_positive` only answers of positive quality are compared (for checkable answers). One
    answer has diversity 1. Where the quality has no value, neither has this.
    """

    def __init__(
        self,
        name: str,
        quality: Reward,
        diversity: Diversity,
        *,
        floor: float = 0.1,
        among_positive: bool = False,
    ) -> None:
        self.name, self.quality, self.diversity = name, quality, diversity
        self.floor, self.among_positive = floor, among_positive

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        found = self.quality.score(rollouts)
        value = [math.nan if s.value is None else s.value for s in found]
        for group in by_group(rollouts):
            compared = [i for i in group if value[i] > 0 or (value[i] == 0 and not self.among_positive)]
            texts = [rollouts[i].text for i in compared]
            values = self.diversity.values(texts) if len(texts) > 1 else [1.0] * len(texts)
            spread = dict(zip(compared, values, strict=True))
            for i in group:
                if value[i] < 0:
                    found[i] = Score.error(f"{self.name}: the quality {value[i]} is negative")
                elif not math.isnan(value[i]):
                    found[i] = self._score(value[i], spread.get(i, 0.0))
        return found

    def _score(self, quality: float, diversity: float) -> Score:
        total = quality * max(diversity, self.floor)
        return Score(total, parts={self.name: total, "quality": quality, self.diversity.name: diversity})


class DiversitySettings(RewardSettings):
    """Difference from the group's other answers, times the quality that another reward gives."""

    kind: Literal["diversity"] = "diversity"
    quality: str | None = None
    """Reward to multiply with, 0 or more; None pays the diversity alone."""
    measure: Measure = "classes"
    n: int = 2
    """Length of the n-grams."""
    model: str | None = None
    """Compare the mean hidden states of this model; None compares n-grams."""
    threshold: float = 0.5
    """Answers closer than this are in one class."""
    floor: float = 0.1
    """Least factor on the quality."""
    among_positive: bool = False
    """Compare only answers of positive quality."""

    def references(self) -> list[str]:
        """The quality."""
        return [] if self.quality is None else [self.quality]

    def build(self, name: str, resolver: Resolver) -> Diversity | QualityDiversity:
        """The reward."""
        distances = None if self.model is None else StateDistances(resolver.policy(self.model))
        own = name if self.quality is None else "diversity"
        diversity = Diversity(own, self.measure, n=self.n, distances=distances, threshold=self.threshold)
        if self.quality is None:
            return diversity
        quality = resolver.reward(self.quality)
        return QualityDiversity(
            name, quality, diversity, floor=self.floor, among_positive=self.among_positive
        )
