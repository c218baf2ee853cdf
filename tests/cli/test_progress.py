"""Progress goes to a terminal as bars, elsewhere as a line now and then, and nowhere if quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rewardlab.cli import progress
from rewardlab.cli.progress import RichProgress


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def text(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def steps(target: RichProgress, clock: Clock, seconds: float) -> None:
    with target.task("sft", 30, completed=5) as task:
        for step in range(25):
            clock.now += seconds
            task.advance(1, {"loss": 1 / (step + 1), "learning_rate": 0.1})


def test_lines_every_ten_seconds_and_at_the_end(clock: Clock) -> None:
    target = console(terminal=False)
    steps(RichProgress(console=target), clock, 1.0)
    lines = text(target).splitlines()
    assert [line.split()[1] for line in lines] == ["15/30", "25/30", "30/30"]
    assert lines[0] == "sft: 15/30  loss 0.1  learning_rate 0.1"


def test_short_work_says_nothing_without_a_terminal(clock: Clock) -> None:
    target = console(terminal=False)
    steps(RichProgress(console=target), clock, 0.1)
    assert text(target) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_silent(clock: Clock, terminal: bool) -> None:
    target = console(terminal=terminal)
    steps(RichProgress(quiet=True, console=target), clock, 60.0)
    assert text(target) == ""


def test_bars_with_live_numbers_one_below_the_other() -> None:
    target = console(terminal=True)
    shown = RichProgress(console=target)
    with shown.task("grpo", 2) as outer:
        with shown.task("sampling", 4) as inner:
            inner.advance(4)
            target.print("a peeked row")
        outer.advance(1, {"reward": 0.25})
        with pytest.raises(KeyboardInterrupt), shown.task("sampling", 4):
            raise KeyboardInterrupt
        outer.advance(1, {"reward": 0.5})
    with shown.task("evaluate", 1) as after:
        after.advance()
    found = text(target)
    assert "a peeked row" in found
    assert "2/2" in found
    assert "reward 0.5" in found
    assert "evaluate" in found


def test_it_goes_to_standard_error(capfd: pytest.CaptureFixture[str], clock: Clock) -> None:
    steps(RichProgress(), clock, 60.0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "30/30" in err
