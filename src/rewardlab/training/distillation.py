"""What distillation on given and on own answers share: the divergence, its knobs, the teacher's streams."""

from __future__ import annotations

from pydantic import Field, model_validator

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.settings import Settings
from rewardlab.objectives.distillation import distil
from rewardlab.objectives.divergence import Divergence, Tail
from rewardlab.objectives.policy_gradient import Aggregation
from rewardlab.objectives.reduction import Terms
from rewardlab.training.teacher import Teacher


class DivergenceSettings(Settings):
    """Which divergence from the teacher, over which part of the vocabulary."""

    divergence: Divergence = "forward_kl"
    """forward_kl covers all that the teacher does, reverse_kl may leave things out, jsd lies between."""
    jsd_beta: float = Field(default=0.5, gt=0, lt=1)
    """jsd: near 0 it behaves as the forward KL, near 1 as the reverse KL."""
    top_k: int | None = Field(default=None, ge=1)
    """Only the teacher's likeliest tokens; null takes the whole vocabulary, one micro-batch at a time."""
    tail: Tail = "bucket"
    """top_k: what becomes of the mass of all other tokens."""
    aggregation: Aggregation = "token"
    """Who is averaged with whom: all tokens of the step alike, or all answers."""

    @model_validator(mode="after")
    def _finite(self) -> DivergenceSettings:
        if self.aggregation == "constant":
            raise ValueError("aggregation: constant has no length to divide by here; use sequence_sum")
        if self.divergence == "reverse_kl" and self.top_k and self.tail == "truncate":
            raise ValueError("reverse_kl with tail: truncate is infinite; use tail: bucket")
        return self


def fill(batch: Batch, teacher: Teacher, settings: DivergenceSettings) -> Batch:
    """The step's batch with the teacher's top-k; the whole vocabulary is left to `divergence_terms`."""
    if settings.top_k is None:
        return batch
    return teacher.top(batch, min(settings.top_k, teacher.vocabulary))


def divergence_terms(out: Outputs, batch: Batch, teacher: Teacher, settings: DivergenceSettings) -> Terms:
    """The divergence on a micro-batch; the whole vocabulary is computed here, never held for a step."""
    if settings.top_k is None:
        batch = teacher.whole(batch)
    return distil(
        out,
        batch,
        kind=settings.divergence,
        beta=settings.jsd_beta,
        tail=settings.tail,
        aggregation=settings.aggregation,
    )
