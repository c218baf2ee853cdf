"""Progress bars with live numbers on standard error; plain lines where that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rewardlab.core.progress import Task

SECONDS_BETWEEN_LINES = 10.0
FIRST = ("loss", "reward", "gold", "accuracy", "kl", "eval_loss", "eval_accuracy", "eval_gold", "length")
"""The numbers that a reader looks for; others follow where there is room."""
MOST_NUMBERS = 5


class RichProgress:
    """A bar per task in a terminal; elsewhere a line at most every ten seconds; nothing if `quiet`.

    Tasks may be inside one another: their bars stand below each other. What is printed on the same
    `console` meanwhile appears above the bars.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None

    @contextmanager
    def task(self, label: str, total: int, *, completed: int = 0) -> Iterator[Task]:
        """Show one task from start to end."""
        if self.quiet or not self.console.is_terminal:
            yield _Lines(self.console, label, total, completed, self.quiet)
            return
        outermost = self._bar is None
        bar = self._bar = self._bar or _new_bar(self.console)
        number = bar.add_task(label, total=total, completed=completed, numbers="")
        try:
            bar.start()
            yield _Row(bar, number)
        finally:
            if outermost:
                bar.stop()
                self._bar = None
            else:
                bar.remove_task(number)


def _new_bar(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[numbers]}", style="cyan"),
        console=console,
    )


class _Row:
    """A task with a bar."""

    def __init__(self, bar: Bar, number: TaskID) -> None:
        self.bar, self.number = bar, number
        self.numbers: dict[str, float] = {}

    def advance(self, amount: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        self.numbers |= numbers or {}
        self.bar.update(self.number, advance=amount, numbers=_format(self.numbers))


class _Lines:
    """A task where no bar can be drawn: now and then a line, and one at the end of a long task."""

    def __init__(self, console: Console, label: str, total: int, completed: int, quiet: bool) -> None:
        self.console, self.label, self.total, self.done = console, label, total, completed
        self.quiet, self.last, self.spoke = quiet, time.monotonic(), False
        self.numbers: dict[str, float] = {}

    def advance(self, amount: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        self.done += amount
        self.numbers |= numbers or {}
        now = time.monotonic()
        finished = self.spoke and self.done >= self.total
        if not self.quiet and (finished or now - self.last >= SECONDS_BETWEEN_LINES):
            self.last, self.spoke = now, not finished
            self.console.print(
                f"{self.label}: {self.done}/{self.total}  {_format(self.numbers)}".rstrip(),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _format(numbers: Mapping[str, float]) -> str:
    names = [n for n in FIRST if n in numbers] + [n for n in numbers if n not in FIRST]
    return "  ".join(f"{n} {numbers[n]:.3g}" for n in names[:MOST_NUMBERS])
