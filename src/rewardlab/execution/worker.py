"""Python functions in child processes that can be killed: a hang or a crash costs one call.

A child is started once and answers many calls; one that runs over its time or dies is killed with all it
started, and the next call gets a new one. Arguments and results are JSON over two pipes of their own; what
the function prints goes nowhere. The child has a clean environment: no variable of ours but PATH, LANG and
where to import from. It is a guard against hangs and crashes of code that one trusts; for code that one
does not trust see `sandbox`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_CHILD = Path(__file__).parent / "child.py"
START_SECONDS = 60.0
"""How long a child may take to import its function."""
_SOURCE = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Reply:
    """What became of a call: a JSON value, or how it failed and a sentence about it."""

    value: Any = None
    failure: Literal["", "raised", "timeout", "crash"] = ""
    reason: str = ""


def clean_environment(home: str = "/nonexistent") -> dict[str, str]:
    """PATH, a UTF-8 locale and fixed hashing; no key, token or proxy of ours."""
    path = os.environ.get("PATH", os.defpath)
    return {
        **{"PATH": path, "HOME": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        **{"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""},
    }


class Worker:
    """One child that calls `target`: `package.module:function` or `file.py:function`.

    It is given one argument, or with `spread` the entries of a list as its arguments; `memory_mib` bounds
    its address space (0: no bound). Not for several threads at once. `close` ends the child; so does losing
    the last reference.
    """

    def __init__(self, target: str, *, spread: bool = False, memory_mib: int = 0) -> None:
        self.target, self.spread, self.memory_mib = target, spread, memory_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._ask = self._hear = -1
        self._end: weakref.finalize[..., Worker] | None = None

    def call(self, argument: Any, seconds: float) -> Reply:
        """The function's result, within so many seconds of wall clock; importing it is not counted."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            if (failed := self._start()) is not None:
                return failed
        arguments = list(argument) if self.spread else [argument]
        return self._exchange({"arguments": arguments, "seconds": seconds}, seconds)

    def close(self) -> None:
        """End the child and everything it started."""
        if self._end is not None:
            self._end()
        self._process = None

    def _start(self) -> Reply | None:
        """A new child, ready to work; None if all is well."""
        to_read, self._ask = os.pipe()
        self._hear, to_write = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", str(_CHILD), str(to_read), str(to_write)),
                *(str(_SOURCE), self.target, str(self.memory_mib)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
            pass_fds=(to_read, to_write),
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._end = weakref.finalize(self, _end, self._process, self._ask, self._hear)
        ready = self._read(START_SECONDS)
        return None if not ready.failure else ready

    def _exchange(self, message: dict[str, Any], seconds: float) -> Reply:
        try:
            with os.fdopen(os.dup(self._ask), "wb") as pipe:
                pipe.write(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, OSError):
            self.close()
            return Reply(failure="crash", reason="the child process died")
        return self._read(seconds)

    def _read(self, seconds: float) -> Reply:
        """The next line from the child; on anything else the child is ended."""
        until, data = time.monotonic() + seconds, b""
        while not data.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._hear], [], [], left)[0]:
                self.close()
                return Reply(failure="timeout", reason=f"no answer within {seconds:g} s")
            piece = os.read(self._hear, 1 << 16)
            if not piece:
                self.close()
                return Reply(failure="crash", reason="the child process died")
            data += piece
        said = json.loads(data)
        return Reply(said["value"]) if "value" in said else Reply(failure="raised", reason=said["raised"])


class WorkerPool:
    """A few workers for one function; calls from any thread wait for a free one."""

    def __init__(self, target: str, *, size: int = 1, spread: bool = False, memory_mib: int = 0) -> None:
        self.size = size
        self._free: queue.Queue[Worker] = queue.Queue()
        for _ in range(size):
            self._free.put(Worker(target, spread=spread, memory_mib=memory_mib))

    def call(self, argument: Any, seconds: float) -> Reply:
        """One call; see `Worker.call`."""
        worker = self._free.get()
        try:
            return worker.call(argument, seconds)
        finally:
            self._free.put(worker)

    def map(self, arguments: Sequence[Any], seconds: float) -> list[Reply]:
        """One reply per argument, in order; `seconds` is the limit of each."""
        if self.size == 1:
            return [self.call(a, seconds) for a in arguments]
        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(lambda a: self.call(a, seconds), arguments))

    def close(self) -> None:
        """End all children that are not at work."""
        for worker in list(self._free.queue):
            worker.close()


def _end(process: subprocess.Popen[bytes], *pipes: int) -> None:
    kill_group(process)
    for pipe in pipes:
        with contextlib.suppress(OSError):
            os.close(pipe)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that leads its own session, with everything in it, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
