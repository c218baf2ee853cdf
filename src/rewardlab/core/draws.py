"""Random draws that depend on a seed and on what they are for, never on when or in which batch they fall."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator_for(seed: int, *content: str) -> np.random.Generator:
    """A generator of its own for this content; equal content under an equal seed draws equal numbers."""
    digest = hashlib.blake2b(json.dumps([seed, *content]).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def uniform_for(seed: int, *content: str) -> float:
    """A number in [0, 1) for this content."""
    return float(generator_for(seed, *content).random())
