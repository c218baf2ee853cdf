"""The inside of the sandbox: sets its own limits, then runs a program; a script that imports nothing of ours.

Arguments: file descriptors to read the order from and to write the verdict to. The verdict is the order's
word if the program came to its end, else `!` and why not.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import signal
import sys
import types
from typing import Any


def limit(order: dict[str, Any]) -> None:
    """The order's limits, which the program cannot raise."""
    memory, file = order["memory_mib"] << 20, order["file_mib"] << 20
    cpu = max(1, round(order["seconds"]))
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_NOFILE, order["open_files"]),
        (resource.RLIMIT_NPROC, order["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))


def main(read: int, write: int) -> None:
    """Read the order, run the program, tell the verdict."""
    with os.fdopen(read, "rb") as pipe:
        order = json.loads(pipe.read())
    os.set_inheritable(write, False)
    word, tell, leave = order.pop("word"), os.write, os._exit

    def out_of_time(*_: object) -> None:
        tell(write, b"!CPU time")
        leave(1)

    signal.signal(signal.SIGXCPU, out_of_time)
    limit(order)
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    try:
        exec(compile(order["program"], "program.py", "exec"), module.__dict__)
    except BaseException as error:
        tell(write, f"!{type(error).__name__}: {error}".replace("\n", " ")[:500].encode())
        leave(1)
    tell(write, word.encode())
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
