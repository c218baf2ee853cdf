"""Progress bars with live numbers on standard error; plain lines where that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rewardlab.core.progress import Task

SECONDS_BETWEEN_LINES = 10.0
SHOWN = ("loss", "reward", "gold", "accuracy", "kl", "eval_loss", "eval_accuracy", "eval_gold", "length")


class RichProgress:
    """A bar per task in a terminal; elsewhere a line every ten seconds; nothing if `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True)

    @contextmanager
    def task(self, label: str, total: int, *, completed: int = 0) -> Iterator[Task]:
        """Show one task from start to end."""
        if self.quiet or not self.console.is_terminal:
            yield _Lines(self.console, label, total, completed, self.quiet)
            return
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[numbers]}", style="cyan"),
        )
        with Bar(*columns, console=self.console) as bar:
            number = bar.add_task(label, total=total, completed=completed, numbers="")
            yield _Bar(bar, number)


class _Bar:
    def __init__(self, bar: Bar, number: object) -> None:
        self.bar, self.number = bar, number
        self.numbers: dict[str, float] = {}

    def advance(self, amount: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        self.numbers |= numbers or {}
        self.bar.update(self.number, advance=amount, numbers=_format(self.numbers))  # type: ignore[arg-type]


class _Lines:
    def __init__(self, console: Console, label: str, total: int, completed: int, quiet: bool) -> None:
        self.console, self.label, self.total, self.done = console, label, total, completed
        self.quiet, self.last = quiet, time.monotonic()
        self.numbers: dict[str, float] = {}

    def advance(self, amount: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        self.done += amount
        self.numbers |= numbers or {}
        now = time.monotonic()
        if not self.quiet and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            self.console.print(
                f"{self.label}: {self.done}/{self.total} {_format(self.numbers)}",
                markup=False,
                highlight=False,
            )


def _format(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{k} {numbers[k]:.3g}" for k in SHOWN if k in numbers)
