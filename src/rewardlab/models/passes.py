"""Which sequences go through the network together, and in which layout."""

from __future__ import annotations

from math import ceil

from rewardlab.core.batch import Batch
from rewardlab.models.layouts import LayoutName, common_prefix, families, joined_by_pairs

WORTH = 0.95
"""A tree is laid out where it leaves at most this share of the tokens."""
STRETCH = 1.5
"""Where a family's prompt fills half of the budget: how many times the cost of the first sequence a pass of
it may reach."""


def choose(batch: Batch) -> LayoutName:
    """`tree` where shared prefixes save work, else `packed`."""
    saved = sum((len(f) - 1) * common_prefix(batch, f) for f in families(batch))
    return "tree" if batch.ids.numel() - saved <= WORTH * batch.ids.numel() else "packed"


def split(batch: Batch, layout: LayoutName, budget: int) -> list[list[int]]:
    """The sequences of each forward pass, at most `budget` tokens as the layout counts them.

    Both members of a pair stay together; a unit above the budget goes alone. Families stand together in a
    tree, and are cut only where they alone pass the budget; a long prompt, which each part computes again,
    then takes half as much again with it. Longest first, so that a pass that does not fit
    into memory fails at once, and lengths within a pass are alike. Passes are about equally large.
    """
    lengths = batch.lengths.tolist()
    related = families(batch)
    family_of = {i: number for number, family in enumerate(related) for i in family}
    shared = [common_prefix(batch, f) if layout == "tree" else 0 for f in related]

    def cost(sequences: list[int]) -> int:
        if layout == "padded":
            return max(lengths[i] for i in sequences) * len(sequences)
        again = sum(shared[family_of[i]] for i in sequences)
        once = sum(shared[f] for f in {family_of[i] for i in sequences})
        return sum(lengths[i] for i in sequences) - again + once

    units = joined_by_pairs(batch)
    if layout == "tree":
        longest = {f: max(lengths[i] for i in family) for f, family in enumerate(related)}
        units.sort(key=lambda u: (-longest[family_of[u[0]]], family_of[u[0]], -max(lengths[i] for i in u)))
    else:
        units.sort(key=lambda u: -max(lengths[i] for i in u))
    limit: float = budget
    if layout != "padded":
        total = cost(list(range(batch.size)))
        limit = min(budget, total / ceil(total / budget) + cost(units[0]))
    passes: list[list[int]] = [[]]
    room = limit
    for unit in units:
        family = family_of[unit[0]]
        goes_on = bool(passes[-1]) and family_of[passes[-1][0]] == family
        if passes[-1] and cost(passes[-1] + unit) > (room if goes_on else limit):
            passes.append([])
        if not passes[-1]:
            room = max(limit, STRETCH * cost(unit)) if shared[family] > budget / 2 else limit
        passes[-1].extend(unit)
    return passes
