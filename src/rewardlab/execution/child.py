"""The inside of a worker: runs as a script in the child process and imports nothing of ours.

Arguments: file descriptors to read from and to write to, a folder to import from, the target, MiB of memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

GRACE = 5.0
"""Seconds after its time at which a child whose parent is gone ends itself."""


def load(target: str) -> Callable[..., Any]:
    """The function that `module:function` or `file.py:function` names."""
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        found: Callable[..., Any] = getattr(importlib.import_module(place), name)
        return found
    spec = importlib.util.spec_from_file_location(os.path.basename(place)[:-3], place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, name)
    return found


def main(read: int, write: int, source: str, target: str, memory_mib: int) -> None:
    """Answer one line with one line until the pipe closes."""
    sys.path.insert(0, source)
    if memory_mib:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))

    def say(message: dict[str, Any]) -> None:
        os.write(write, json.dumps(message).encode() + b"\n")

    try:
        function = load(target)
    except BaseException as error:
        say({"raised": f"{target} cannot be imported: {type(error).__name__}: {error}"})
        return
    say({"value": "ready"})
    with os.fdopen(read, "rb") as lines:
        for line in lines:
            message = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, message["seconds"] + GRACE)
            try:
                said = json.dumps({"value": function(*message["arguments"])})
            except Exception as error:
                said = json.dumps({"raised": f"{type(error).__name__}: {error}"})
            signal.setitimer(signal.ITIMER_REAL, 0)
            data = said.encode() + b"\n"
            while data:
                data = data[os.write(write, data) :]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
