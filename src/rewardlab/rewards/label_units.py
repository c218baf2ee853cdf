"""From a reward head's raw score to the unit of the labels it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def in_label_units(facts: Mapping[str, Any]) -> Callable[[float], float]:
    """A function of the raw score s, by what the training of a head on single answers recorded.

    regression: mean + sd s
    binary:     s, the log-odds of good
    ordinal:    lowest + sum_k sigmoid(s - b_k), the expected grade

    `facts`: `head`, and `mean` and `sd`, or `lowest` and `cutpoints` b. Another head is a KeyError.
    """
    if facts["head"] == "binary":
        return lambda s: s
    if facts["head"] == "regression":
        mean, sd = facts["mean"], facts["sd"]
        return lambda s: float(mean + sd * s)
    lowest, cutpoints = facts["lowest"], facts["cutpoints"]
    # (1 + tanh(x / 2)) / 2 is the sigmoid, without overflow
    return lambda s: float(lowest + sum((1 + math.tanh((s - b) / 2)) / 2 for b in cutpoints))
