"""Generated code, tested in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import Field

from rewardlab.core.types import Rollout, Score
from rewardlab.execution.sandbox import SandboxSettings, run_program
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.rules.rule import RowError, reference, to_score

_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def code_of(text: str) -> str:
    """The last fenced block of an answer, or the whole text where there is none."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


class UnitTestsSettings(RewardSettings):
    """The share of a prompt's tests that the answer's Python code passes, or whether all do.

    `tests` of the prompt's meta is a list of test programs or one of them (asserts that follow the code);
    with `entry_point` beside it, as in HumanEval, a call `check(entry_point)` is added.
    """

    kind: Literal["unit_tests"] = "unit_tests"
    field: str = "tests"
    """Key of the prompt's meta with the tests."""
    prefix: str | None = None
    """Key of the prompt's meta with code that the answer continues (a signature to complete)."""
    entry_point: str = "entry_point"
    """Key of the prompt's meta with the name of the function that `check` is called on, if there."""
    score: Literal["all", "share"] = "all"
    """1 only if every test passes, or the share that does."""
    at_once: int = Field(default=2, ge=1)
    """Sandboxes at a time."""
    sandbox: SandboxSettings = SandboxSettings()
    """Limits of each test."""

    def build(self, name: str, resolver: Resolver) -> UnitTests:
        """The reward."""
        return UnitTests(name, self)


class UnitTests(Composable):
    """Runs each test with the code in a sandbox of its own; parts `passed` (share), `tests`, `timeouts`."""

    settings: UnitTestsSettings

    def __init__(self, name: str, settings: UnitTestsSettings) -> None:
        self.name, self.settings = name, settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a prompt without tests is an error."""
        with ThreadPoolExecutor(self.settings.at_once) as threads:
            return list(threads.map(self._score, rollouts))

    def _score(self, rollout: Rollout) -> Score:
        try:
            programs = self._programs(rollout)
        except RowError as error:
            return Score.error(f"{rollout.prompt.place}: {error}".lstrip(": "))
        verdicts = [run_program(p, self.settings.sandbox) for p in programs]
        share = sum(v.status == "passed" for v in verdicts) / len(verdicts)
        return to_score(
            {
                "reward": share if self.settings.score == "share" else float(share == 1.0),
                "passed": share,
                "tests": float(len(verdicts)),
                "timeouts": float(sum(v.status == "timeout" for v in verdicts)),
            }
        )

    def _programs(self, rollout: Rollout) -> list[str]:
        s, meta = self.settings, rollout.prompt.meta
        tests: Any = reference(rollout, s.field)
        tests = [tests] if isinstance(tests, str) else tests
        if not isinstance(tests, list | tuple) or not tests or not all(isinstance(t, str) for t in tests):
            raise RowError(f"{s.field!r} is no list of test programs")
        before = "" if s.prefix is None else str(reference(rollout, s.prefix))
        entry = meta.get(s.entry_point)
        after = f"\ncheck({entry})\n" if isinstance(entry, str) else "\n"
        return [f"{before}{code_of(rollout.text)}\n\n{t}{after}" for t in tests]
