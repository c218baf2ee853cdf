"""How long a whole audit takes with a rule-based reward: python benchmarks/audit_speed.py [PAIRS] [--profile]

Prints one JSON line: pairs, seconds for scoring, statistics, probes and search, seconds for the page.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import audit_worlds

from rewardlab.audit import ScoredSubject, full_audit
from rewardlab.reporting.audit_page import audit_page


def run(n: int) -> dict[str, Any]:
    """Time one audit with its cache on disk, and its page."""
    rows = audit_worlds.pairs(n, 0)
    reward = audit_worlds.NoisyQuality(0)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subject = ScoredSubject(reward.name, reward.score, file=Path(folder) / "scores.jsonl")
        card = full_audit(subject, rows, seed=0)
        audited = time.perf_counter()
        page = audit_page({"title": "speed", "facts": {}, "rewards": {reward.name: card}})
        done = time.perf_counter()
    return {
        "pairs": n,
        "audit_seconds": round(audited - started, 2),
        "page_seconds": round(done - audited, 2),
        "answers_scored": subject.cache.calls,
        "page_kilobytes": len(page.encode()) // 1024,
        "light": card["verdict"]["light"],
    }


if __name__ == "__main__":
    sizes = [int(a) for a in sys.argv[1:] if a.isdigit()]
    profile = cProfile.Profile()
    if "--profile" in sys.argv:
        profile.enable()
    print(json.dumps(run(sizes[0] if sizes else 20_000)))
    if "--profile" in sys.argv:
        profile.disable()
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)
