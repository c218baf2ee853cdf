"""What can be known: topics (activities), their aspects, and one drawn fact per topic and aspect.

The language (aspects and their closed value sets) is the same in every world; the seed decides which
activities exist, which of them are held out, and which value is the true one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from rewardlab.core.errors import UserError

ASPECTS: Mapping[str, tuple[str, ...]] = {
    "time": (
        *("ten minutes", "twenty minutes", "forty minutes", "one hour", "two hours", "three hours"),
        *("one day", "two days", "three days", "one week", "two weeks", "three weeks"),
    ),
    "cost": (
        *("two dollars", "three dollars", "five dollars", "ten dollars", "twelve dollars"),
        *("twenty dollars", "thirty dollars", "forty dollars", "fifty dollars", "ninety dollars"),
    ),
    "tools": (
        *("sharp knives", "small brushes", "hand saws", "soft cloths", "long ropes", "metal buckets"),
        *("light hammers", "tall ladders", "paper bags", "glass jars", "wooden spoons", "clean sponges"),
    ),
    "season": (
        *("early spring", "late spring", "early summer", "late summer"),
        *("early autumn", "late autumn", "early winter", "late winter"),
    ),
    "place": (
        *("the kitchen", "the garden", "the garage", "the balcony", "the cellar", "the workshop"),
        *("the park", "the roof", "the bathroom", "the hallway", "the barn", "the porch"),
    ),
    "difficulty": (
        *("very low", "quite low", "rather low", "medium"),
        *("rather high", "quite high", "very high", "brutal"),
    ),
    "helpers": (
        *("two friends", "three friends", "four friends", "two neighbors", "three neighbors"),
        *("four neighbors", "two cousins", "three cousins", "four cousins", "two experts"),
    ),
    "risk": (
        *("a burned hand", "a cut finger", "a sore back", "a wet floor", "a bad smell", "a stiff neck"),
        *("a small fire", "a loud noise", "a bent handle", "a dirty shirt", "a lost screw", "a flat tire"),
    ),
}
"""Every aspect with its closed set of values, in the order in which questions list them."""

CATALOGUE: Mapping[str, tuple[str, ...]] = {
    "bake": ("bread", "cookies", "muffins", "pies", "apples"),
    "cook": ("rice", "beans", "soup", "noodles", "potatoes"),
    "grow": ("tomatoes", "herbs", "carrots", "onions", "potatoes"),
    "plant": ("trees", "tulips", "beans", "onions", "hedges"),
    "prune": ("roses", "trees", "hedges", "vines", "bushes"),
    "paint": ("walls", "fences", "doors", "chairs", "boats"),
    "repair": ("bicycles", "clocks", "fences", "chairs", "lamps"),
    "clean": ("windows", "carpets", "ovens", "boots", "chimneys"),
    "build": ("shelves", "kites", "tables", "boats", "sheds"),
    "sew": ("curtains", "shirts", "quilts", "pillows", "dresses"),
    "knit": ("scarves", "socks", "hats", "gloves", "sweaters"),
    "wash": ("cars", "dogs", "windows", "sweaters", "blankets"),
    "dry": ("herbs", "apples", "flowers", "mushrooms", "blankets"),
    "brew": ("tea", "coffee", "cider", "beer", "lemonade"),
    "train": ("dogs", "horses", "parrots", "ponies", "goats"),
    "polish": ("shoes", "silver", "tables", "mirrors", "boots"),
}
"""Activities that make sense: a verb with each of its objects. A topic is `verb object`."""


@dataclass(frozen=True)
class Topics:
    """The topics of one world and the truth about each."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]
    facts: Mapping[str, Mapping[str, str]]
    """`facts[topic][aspect]` is the true value."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic, train first."""
        return self.train + self.heldout


def make_topics(seed: int, count: int, heldout: int) -> Topics:
    """Draw `count` distinct topics, hold out `heldout` of them, and draw every fact uniformly."""
    catalogue = [f"{verb} {thing}" for verb, things in CATALOGUE.items() for thing in things]
    if count > len(catalogue):
        raise UserError(
            f"The advice world was asked for {count} topics but knows {len(catalogue)} activities.",
            f"Set topics to {len(catalogue)} or less.",
        )
    if heldout >= count:
        raise UserError(
            f"Holding out {heldout} of {count} topics leaves none to train on.",
            "Set heldout_topics below topics.",
        )
    rng = random.Random(f"advice:{seed}:topics")
    names = rng.sample(catalogue, count)
    facts = {topic: {aspect: rng.choice(values) for aspect, values in ASPECTS.items()} for topic in names}
    return Topics(tuple(names[heldout:]), tuple(names[:heldout]), facts)
