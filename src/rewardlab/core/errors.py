"""Errors that a user can act on.

A `UserError` carries one sentence with the place and one with a way out; the command line prints it
without a traceback and exits with code 2. Anything else is our bug and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input: what is wrong and where, then what to do about it."""

    def __init__(self, problem: str, way_out: str = "") -> None:
        super().__init__(f"{problem} {way_out}".strip())
        self.problem = problem
        self.way_out = way_out
