"""Many judges, one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.judges.base import Comparison, Finder, Judge, JudgeSettings

Count = Literal["votes", "mean"]


class Jury:
    """first = sum_j w_j v_j / sum_j w_j over the judges that have a verdict.

    `votes`: v_j is 1, 0, or 1/2 for a tie, whatever the judge's confidence; `mean`: its probability itself.
    A pair on which fewer than `quorum` judges have a verdict is an abstention, an error if every judge
    failed. Weights default to 1.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        weights: Sequence[float] | None = None,
        *,
        name: str = "jury",
        count: Count = "votes",
        quorum: int = 1,
    ) -> None:
        self.name, self.judges, self.quorum = name, list(judges), quorum
        self.count: Count = count
        self.weights = [1.0] * len(self.judges) if weights is None else list(weights)
        if not self.judges or len(self.weights) != len(self.judges) or not all(w > 0 for w in self.weights):
            raise UserError(
                f"{name}: {len(self.judges)} judges with weights {self.weights}.",
                "Give at least one judge, and one positive weight for each.",
            )
        if not 1 <= quorum <= len(self.judges):
            raise UserError(
                f"{name}: a quorum of {quorum} of {len(self.judges)} judges.", "Lower the quorum."
            )

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """One comparison per pair."""
        columns = [judge.compare(pairs) for judge in self.judges]
        return [self._verdict(row) for row in zip(*columns, strict=True)]

    def _verdict(self, row: tuple[Comparison, ...]) -> Comparison:
        given = [(w, c.first) for w, c in zip(self.weights, row, strict=True) if c.first is not None]
        if len(given) < self.quorum:
            if all(c.status == "error" for c in row):
                return Comparison.error(f"{self.name}: every judge failed; {row[0].reason}")
            return Comparison.abstain(f"{self.name}: {len(given)} of {len(row)} judges have a verdict")
        votes = [(w, p if self.count == "mean" else 0.5 + 0.5 * ((p > 0.5) - (p < 0.5))) for w, p in given]
        total = sum(w for w, _ in votes)
        reason = f"{len(given)} of {len(row)} judges have a verdict" if len(given) < len(row) else ""
        return Comparison(min(1.0, sum(w * v for w, v in votes) / total), reason=reason)


class JurySettings(JudgeSettings):
    """Many judges, each with a weight."""

    kind: Literal["jury"] = "jury"
    weights: dict[str, float] = Field(min_length=1)
    """Judge -> weight above 0."""
    count: Count = "votes"
    """`votes` counts who wins; `mean` averages the probabilities."""
    quorum: int = 1
    """With fewer verdicts the jury abstains."""

    def judges(self) -> list[str]:
        """The jurors."""
        return list(self.weights)

    def build(self, name: str, finder: Finder) -> Jury:
        """The jury."""
        judges = [finder.judge(j) for j in self.weights]
        weights = list(self.weights.values())
        return Jury(judges, weights, name=name, count=self.count, quorum=self.quorum)
