"""A child survives good calls and is replaced after bad ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rewardlab.execution.worker import Worker, WorkerPool

SCRIPT = """
import os, sys, time

def work(job):
    print("noise", file=sys.stdout)
    if job == "hang":
        time.sleep(60)
    if job == "die":
        os._exit(3)
    if job == "raise":
        raise ValueError("no such luck")
    if job == "environment":
        return dict(os.environ)
    return {"pid": os.getpid(), "job": job}

def add(a, b):
    return a + b
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    file = tmp_path / "job.py"
    file.write_text(SCRIPT)
    return f"{file}:work"


def test_a_child_answers_many_calls_and_survives_exceptions(target: str) -> None:
    worker = Worker(target)
    first = worker.call("x" * 300_000, 20).value
    assert worker.call("raise", 20).reason == "ValueError: no such luck"
    assert worker.call("again", 20).value["pid"] == first["pid"]
    worker.close()


def test_a_hang_is_killed_and_the_next_call_has_a_new_child(target: str) -> None:
    worker = Worker(target)
    pid = worker.call("", 20).value["pid"]
    started = time.monotonic()
    assert worker.call("hang", 0.3).failure == "timeout"
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worker.call("die", 20).failure == "crash"
    assert worker.call("", 20).value["pid"] != pid
    worker.close()


def test_no_secret_of_ours_reaches_the_child(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hush")
    worker = Worker(target)
    assert "SECRET_KEY" not in worker.call("environment", 20).value
    worker.close()


def test_a_pool_keeps_the_order_and_shares_its_children(target: str) -> None:
    pool = WorkerPool(target, size=2)
    replies = pool.map([f"job {i}" for i in range(8)], 20)
    assert [r.value["job"] for r in replies] == [f"job {i}" for i in range(8)]
    assert len({r.value["pid"] for r in replies}) <= 2
    pool.close()


def test_a_target_that_is_not_there_and_several_arguments(target: str) -> None:
    assert "cannot be imported" in Worker("no.such.module:f").call(1, 5).reason
    worker = Worker(target.replace(":work", ":add"), spread=True)
    assert worker.call([2, 3], 20).value == 5
    worker.close()
