"""One seed for each stage and purpose, derived from the run's seed by hashing."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str) -> int:
    """A 31-bit seed that depends on the run's seed and on what it is for, and on nothing else."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
