"""How an arm is started, runs its steps when it is told to, and reports them: one JSON line per command.

The driver writes `go N`; the arm runs N steps, answers, and waits with the cores free for the other arm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def peak_rss_mib() -> float:
    """High-water mark of this process's resident memory."""
    with open("/proc/self/status", encoding="ascii") as lines:
        (line,) = (x for x in lines if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Pacer:
    """Counts the steps of a lot; `step` is called at each one's end."""

    def __init__(self) -> None:
        # Whatever a library, or a process that it starts, prints is no answer.
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.left = 0
        self.lot: list[dict[str, Any]] = []
        self.started = 0.0

    def ready(self) -> None:
        """Everything is loaded: wait for the first command."""
        self._say({"ready": True, "rss_mib": peak_rss_mib()})
        self._wait()

    def step(self, **numbers: Any) -> None:
        """A step has ended."""
        self.lot.append({"seconds": time.perf_counter() - self.started, **numbers})
        self.left -= 1
        if self.left == 0:
            self._say({"steps": self.lot, "rss_mib": peak_rss_mib()})
            self.lot = []
            self._wait()
        self.started = time.perf_counter()

    def _say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.out, flush=True)

    def _wait(self) -> None:
        command = sys.stdin.readline().split()
        if not command or command[0] != "go":
            raise SystemExit(0)
        self.left = int(command[1])
        self.started = time.perf_counter()


def arguments() -> argparse.ArgumentParser:
    """What all arms are started with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--precompute", action="store_true")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=64)
    return parser
