"""A user's Python function by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardlab.core.errors import UserError
from rewardlab.execution.child import load


def load_function(target: str) -> Callable[..., Any]:
    """The function that `file.py:function` or `package.module:function` names, or a UserError."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UserError(f"{target!r} names no function.", "Write it as `file.py:function`.")
    if place.endswith(".py") and not Path(place).is_file():
        raise UserError(f"there is no file {place!r}.", "Give a path from the folder you run in.")
    try:
        found = load(target)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"{target!r} cannot be imported: {error}.", "Check file and name.") from error
    return found
