"""Answers that are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.extraction import FORMS, Form, extract, read_number
from rewardlab.rewards.rules.rule import RowError, Rule, reference


def numbers_agree(
    said: str,
    wanted: str,
    *,
    relative: float = 1e-6,
    absolute: float = 0.0,
    units: Mapping[str, float] | None = None,
) -> bool | None:
    """Whether two texts begin with the same quantity; None where `said` does not begin with a number.

    |x - y| <= max(relative * max(|x|, |y|), absolute), after each is multiplied by the factor of its unit.
    `units` maps a unit to its factor (`{"km": 1000, "m": 1}`); without it units are ignored, with it an
    unknown unit is a disagreement and a missing one has factor 1. ValueError where `wanted` is no number.
    """
    right, answer = read_number(wanted), read_number(said)
    if right is None:
        raise ValueError(f"no number in {wanted!r}")
    if answer is None:
        return None
    factors = []
    for _, unit in (answer, right):
        factor = 1.0 if not units or not unit else units.get(unit)
        if factor is None:
            return False
        factors.append(factor)
    x, y = answer[0] * factors[0], right[0] * factors[1]
    return math.isclose(x, y, rel_tol=relative, abs_tol=absolute)


class NumericSettings(RewardSettings):
    """1 if the answer's final number is the reference, else 0; a prompt without one is an error."""

    kind: Literal["numeric"] = "numeric"
    field: str = "answer"
    """Key of the prompt's meta with the reference."""
    forms: list[Form] = list(FORMS)
    """How an answer may be marked; the last mark counts, and a number without a mark never does."""
    relative_tolerance: float = Field(default=1e-6, ge=0)
    absolute_tolerance: float = Field(default=0.0, ge=0)
    units: dict[str, float] = {}
    """Unit -> factor, as in `{km: 1000, m: 1}`; empty ignores units."""

    def build(self, name: str, resolver: Resolver) -> NumericAnswer:
        """The rule."""
        return NumericAnswer(name, self)


class NumericAnswer(Rule):
    """Numeric match; parts `correct` and `answered` (a marked number was found)."""

    settings: NumericSettings

    def __init__(self, name: str = "numeric_answer", settings: NumericSettings | None = None) -> None:
        super().__init__(name, self._judge, settings or NumericSettings())

    def _judge(self, rollout: Rollout) -> dict[str, float]:
        s = self.settings
        try:
            agree = numbers_agree(
                extract(rollout.text, s.forms) or "",
                str(reference(rollout, s.field)),
                relative=s.relative_tolerance,
                absolute=s.absolute_tolerance,
                units=s.units,
            )
        except ValueError as error:
            raise RowError(f"no numeric reference in {s.field!r}") from error
        return {"correct": float(bool(agree)), "answered": float(agree is not None)}
