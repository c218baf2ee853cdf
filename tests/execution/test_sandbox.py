"""What a program may and may not do, and that only coming to its end counts as passing."""

from __future__ import annotations

import time

import pytest

from rewardlab.execution.sandbox import SandboxSettings, isolation, run_program

QUICK = SandboxSettings(seconds=1, isolation="auto" if isolation() != "none" else "none")
isolated = pytest.mark.skipif(isolation() == "none", reason="neither bwrap nor unshare works here")


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("assert sum([1, 2]) == 3", "passed", ""),
        (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\nassert A().x",
            "passed",
            "",
        ),
        ("assert 1 == 2", "failed", "AssertionError"),
        ("def f(:", "failed", "SyntaxError"),
        ("print('passed'); raise SystemExit(0)", "failed", "SystemExit"),
        ("import os; os._exit(0)", "crash", "ended early"),
        ("x = bytearray(3 << 30)", "failed", "MemoryError"),
        ("open('f', 'wb').write(b'x' * (17 << 20))", "failed", "File too large"),
        ("import os; assert 'HOME' in os.environ and len(os.environ) < 12", "passed", ""),
    ],
)
def test_how_a_program_ends(program: str, status: str, reason: str) -> None:
    verdict = run_program(program, QUICK)
    assert verdict.status == status, verdict
    assert reason in verdict.reason


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_endless_programs_are_killed(program: str) -> None:
    started = time.monotonic()
    assert run_program(program, QUICK).status == "timeout"
    assert time.monotonic() - started < 15


@isolated
def test_there_is_no_network() -> None:
    program = "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"
    verdict = run_program(program, QUICK)
    assert "unreachable" in verdict.reason


@isolated
def test_a_process_left_behind_does_not_outlive_the_run() -> None:
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(120)
"""
    started = time.monotonic()
    assert run_program(program, QUICK).status == "passed"
    assert time.monotonic() - started < 5


def test_files_are_written_to_a_folder_that_is_gone_afterwards() -> None:
    program = "import os; open('note', 'w').write('hi'); assert os.listdir() == ['note']"
    assert run_program(program, QUICK).status == "passed"
    assert run_program("import os; assert os.listdir() == []", QUICK).status == "passed"
