"""Generated Python programs under limits: does the program run to its end?

Each run is a new process with a clean environment, its own temporary folder as working and home folder, and
limits on CPU and wall-clock time, memory, file size and open files. Around it, the strongest isolation found:

bwrap    the disc is read-only except for the folder, no network, own process and user namespaces
unshare  no network, own process namespace; the disc stays as open as it is to the user
none     limits alone: refused unless asked for

That the program came to its end is told by a random word over a pipe of its own, after its last statement:
nothing that it prints counts, nor does its exit code. The tests run in the program's own interpreter, so a
program that is written to search its interpreter for the word could find it; no limit here prevents that.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.execution.worker import clean_environment, kill_group

Isolation = Literal["auto", "bwrap", "unshare", "none"]
_GUEST = Path(__file__).parent / "guest.py"
_NETLESS = ["unshare", "--user", "--map-current-user", "--net", "--pid", "--fork", "--kill-child"]


class SandboxSettings(Settings):
    """Limits of one run."""

    seconds: float = Field(default=5.0, gt=0)
    """Of CPU time, and twice as much of wall clock."""
    memory_mib: int = Field(default=1024, ge=64)
    """Address space of each process."""
    processes: int = Field(default=16, ge=1)
    """Processes and threads of the user; has no effect for root, whom the kernel does not count."""
    file_mib: int = Field(default=16, ge=0)
    """Largest file that may be written."""
    open_files: int = Field(default=64, ge=8)
    isolation: Isolation = "auto"
    """`auto` takes bwrap, else unshare, and refuses to run without either."""


@dataclass(frozen=True)
class Verdict:
    """What became of a program."""

    status: Literal["passed", "failed", "timeout", "crash"]
    """`failed`: it raised, or ended itself early in order; `crash`: it was killed, as by its memory limit."""
    reason: str = ""
    seconds: float = 0.0


@functools.cache
def isolation() -> Literal["bwrap", "unshare", "none"]:
    """The strongest isolation that works here, tried once."""
    for name, command in (("bwrap", _bwrap("/tmp")), ("unshare", _NETLESS)):
        if shutil.which(name) is None:
            continue
        done = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
        if done.returncode == 0:
            return "bwrap" if name == "bwrap" else "unshare"
    return "none"


def _bwrap(folder: str) -> list[str]:
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/"),
        *("--dev", "/dev", "--proc", "/proc", "--bind", folder, folder, "--chdir", folder),
    ]


def run_program(program: str, settings: SandboxSettings | None = None) -> Verdict:
    """Run a Python program as `__main__`; `passed` if it came to its end."""
    s = settings or SandboxSettings()
    kind = isolation() if s.isolation == "auto" else s.isolation
    if kind == "none" and s.isolation == "auto":
        raise UserError(
            "generated code cannot be isolated here: neither bwrap nor unshare works.",
            "Install bubblewrap, or set `isolation: none` to run it with limits alone.",
        )
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        around = {"bwrap": _bwrap(folder), "unshare": _NETLESS, "none": []}[kind]
        return _run(program, s, around, folder)


def _run(program: str, s: SandboxSettings, around: list[str], folder: str) -> Verdict:
    word = secrets.token_hex(16)
    to_read, ask = os.pipe()
    hear, to_write = os.pipe()
    started = time.monotonic()
    process = subprocess.Popen(
        [*around, sys.executable, "-I", "-B", str(_GUEST), str(to_read), str(to_write)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(folder),
        cwd=folder,
        pass_fds=(to_read, to_write),
        start_new_session=True,
    )
    os.close(to_read)
    os.close(to_write)
    order = {"program": program, "word": word, **s.model_dump(exclude={"isolation"})}
    try:
        with os.fdopen(ask, "wb") as pipe:
            pipe.write(json.dumps(order).encode())
    except BrokenPipeError:
        pass  # the verdict below says how it ended
    try:
        said = _hear(hear, started + 2 * s.seconds + 1)
    finally:
        kill_group(process)
        os.close(hear)
    return _verdict(said, word, process.returncode, time.monotonic() - started)


def _hear(pipe: int, until: float, limit: int = 1 << 16) -> bytes | None:
    """All that comes over the pipe until it closes, None if it does not in time; no more than `limit`."""
    data = b""
    while len(data) < limit:
        left = until - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        piece = os.read(pipe, 1 << 12)
        if not piece:
            break
        data += piece
    return data


def _verdict(said: bytes | None, word: str, code: int | None, seconds: float) -> Verdict:
    if said is None:
        return Verdict("timeout", "out of time", seconds)
    lines = said.decode(errors="replace").splitlines()
    if word in lines:
        return Verdict("passed", "", seconds)
    if lines and lines[0].startswith("!"):
        reason = lines[0][1:]
        return Verdict("timeout" if reason == "CPU time" else "failed", reason, seconds)
    return Verdict("crash", f"the program ended early (code {code})", seconds)
