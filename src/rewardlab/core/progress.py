"""What long work tells of itself; the command line shows it, a library call is silent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work with a known size."""

    def advance(self, amount: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        """So much more is done; `numbers` are the live values to show beside it."""
        ...


class Progress(Protocol):
    """Where tasks are shown."""

    def task(self, label: str, total: int, *, completed: int = 0) -> AbstractContextManager[Task]:
        """A task of `total` units, of which `completed` were done before."""
        ...


class _Silent:
    def advance(self, amount: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        """Say nothing."""

    @contextmanager
    def task(self, label: str, total: int, *, completed: int = 0) -> Iterator[Task]:
        """Say nothing."""
        yield self


NO_PROGRESS: Progress = _Silent()
