"""Mathematical equivalence: `\\frac{1}{2}`, `0.5` and `1/2` are one answer. Needs the extra `math`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.execution.worker import Reply, WorkerPool
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.rules.extraction import FORMS, Form, extract
from rewardlab.rewards.rules.rule import RowError, reference

_COMPARE = f"{Path(__file__).parent / 'equivalence.py'}:equivalent"
"""By its file, so that the child imports nothing else of ours."""


class MathSettings(RewardSettings):
    """1 if the answer's marked expression equals the reference mathematically (math-verify), else 0."""

    kind: Literal["math"] = "math"
    field: str = "answer"
    """Key of the prompt's meta with the reference expression."""
    forms: list[Form] = list(FORMS)
    """How an answer may be marked; the last mark counts."""
    seconds: float = Field(default=5.0, gt=0)
    """Time for one comparison; one that takes longer is an error, not a 0."""
    workers: int = Field(default=1, ge=1)
    """Child processes that compare."""

    def build(self, name: str, resolver: Resolver) -> MathEquivalence:
        """The reward; its children start with the first answer."""
        if find_spec("math_verify") is None:
            raise UserError(
                f"the reward {name!r} needs math-verify.", "Install it: pip install 'rewardlab[math]'."
            )
        return MathEquivalence(name, self)


class MathEquivalence(Composable):
    """Equivalence of expressions, decided in killable child processes; parts `correct` and `answered`."""

    settings: MathSettings

    def __init__(self, name: str, settings: MathSettings) -> None:
        self.name, self.settings = name, settings
        self.pool = WorkerPool(_COMPARE, size=settings.workers, memory_mib=2048)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; no or no readable reference, a hang and a crash are errors."""
        scores: list[Score] = []
        asked: list[tuple[int, dict[str, Any]]] = []
        for rollout in rollouts:
            said = extract(rollout.text, self.settings.forms)
            try:
                wanted = str(reference(rollout, self.settings.field))
            except RowError as error:
                scores.append(Score.error(f"{rollout.prompt.place}: {error}".lstrip(": ")))
                continue
            if said is not None:
                asked.append((len(scores), {"said": said, "wanted": wanted}))
            scores.append(Score(0.0, parts={"correct": 0.0, "answered": 0.0}))
        replies = self.pool.map([pair for _, pair in asked], self.settings.seconds)
        for (i, pair), reply in zip(asked, replies, strict=True):
            scores[i] = _score(reply, pair["wanted"])
        return scores


def _score(reply: Reply, wanted: str) -> Score:
    if reply.failure:
        return Score.error(f"comparing with {wanted!r}: {reply.reason}")
    if not reply.value["known"]:
        return Score.error(f"the reference {wanted!r} is no expression")
    same = float(reply.value["same"])
    return Score(same, parts={"correct": same, "answered": float(reply.value["read"])})
