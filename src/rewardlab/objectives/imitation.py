"""Which supervised loss, and its knobs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.settings import Settings
from rewardlab.objectives.feasible import feasible
from rewardlab.objectives.policy_gradient.aggregation import Aggregation
from rewardlab.objectives.reduction import Terms
from rewardlab.objectives.supervised import (
    Anchor,
    anchored,
    label_smoothed,
    minor_sft,
    nll,
    probability_weighted,
)

SupervisedLoss = Literal["nll", "probability", "anchored", "minor_sft", "feasible"]
PER_SEQUENCE = frozenset({"minor_sft", "feasible"})
"""Losses that are a mean over answers by definition, in which a token's weight is no weight of the loss."""


class SupervisedSettings(Settings):
    """Knobs of the supervised losses; each is read by the losses its help names."""

    loss: SupervisedLoss = "nll"
    """nll; probability: tokens weighted by their own probability (power 1 is DFT); anchored: that, and a pull
    to the starting policy; minor_sft: lets go of answers already learned; feasible: brings every row's own
    loss below `tolerance`."""
    aggregation: Aggregation = "token"
    """nll, probability, anchored: who is averaged with whom: all tokens of the step alike, or all answers."""
    constant_length: int | None = Field(default=None, ge=1)
    """aggregation constant: the number of tokens to divide every answer by."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """nll: share of the target that is spread over the whole vocabulary."""
    power: float = Field(default=1.0, ge=0)
    """probability, anchored: a token of probability p has weight p^power; 1 is DFT, 0 is nll."""
    complement: float = Field(default=0.0, ge=0)
    """probability: a further factor (1 - p)^complement."""
    at_least: float = Field(default=0.0, ge=0, le=1)
    """probability: train only on tokens with at least this probability."""
    at_most: float = Field(default=1.0, ge=0, le=1)
    """probability: train only on tokens with at most this probability."""
    detached: bool = True
    """probability: report weight times nll; false: the loss (1 - p^power) / power of the same gradient."""
    anchor: Anchor = "forward_kl"
    """anchored: the distance from the starting policy; both KLs are over the whole vocabulary, k3 reads the
    data's own tokens only."""
    anchor_weight: float = Field(default=0.05, ge=0)
    """anchored: weight of that distance."""
    minor_beta: float = Field(default=0.04, gt=0)
    """minor_sft: how soon an answer counts as learned."""
    tolerance: float = Field(default=0.5, ge=0)
    """feasible: nats per token that every row may keep."""
    dual_rate: float = Field(default=1.0, gt=0)
    """feasible: step size of the rows' multipliers."""
    dual_relaxation: float | None = Field(default=None, gt=0)
    """feasible: a finite value lets rows that cannot be fitted keep a loss above the tolerance."""

    @property
    def needs_logp_ref(self) -> bool:
        """Whether the starting policy's log-probs of the data's tokens are read."""
        return self.loss == "minor_sft" or (self.loss == "anchored" and self.anchor == "k3")

    @property
    def needs_distribution(self) -> bool:
        """Whether the starting policy's distributions over the vocabulary are read."""
        return self.loss == "anchored" and self.anchor != "k3"

    @model_validator(mode="after")
    def _fits_together(self) -> SupervisedSettings:
        if self.label_smoothing and self.loss != "nll":
            raise ValueError(f"label_smoothing belongs to loss: nll and has no meaning for {self.loss}")
        if self.loss in PER_SEQUENCE and self.aggregation in ("constant", "sequence_sum"):
            raise ValueError(f"{self.loss} is a mean over each answer's tokens; leave `aggregation` out")
        if self.aggregation == "constant" and self.constant_length is None:
            raise ValueError("aggregation: constant needs `constant_length`, usually the limit of an answer")
        if self.complement and not self.detached:
            raise ValueError("`complement` has no closed form without its weight; set detached: true")
        if self.at_least > self.at_most:
            raise ValueError("at_least is above at_most, so that no token would be trained on")
        if self.dual_relaxation is not None and self.dual_rate >= 2 * self.dual_relaxation:
            raise ValueError(
                "dual_rate must be below twice the dual_relaxation, or the multipliers oscillate"
            )
        return self


def supervised(out: Outputs, batch: Batch, settings: SupervisedSettings) -> Terms:
    """The loss that the settings name, from `supervised` and `feasible`, with their terms and statistics.

    Reads `Outputs.logp_mean` for label smoothing; the stream `logp_ref` where `needs_logp_ref`;
    `Outputs.slice_logp` and the batch's `slice_logp` where `needs_distribution`; for feasible the stream
    `dual`.
    """
    s = settings
    if s.loss == "minor_sft":
        return minor_sft(out, batch, beta=s.minor_beta)
    if s.loss == "feasible":
        return feasible(out, batch, tolerance=s.tolerance)
    if s.loss == "anchored":
        return anchored(
            out,
            batch,
            coefficient=s.anchor_weight,
            anchor=s.anchor,
            power=s.power,
            aggregation=s.aggregation,
            constant_length=s.constant_length,
        )
    if s.loss == "probability":
        return probability_weighted(
            out,
            batch,
            power=s.power,
            complement=s.complement,
            at_least=s.at_least,
            at_most=s.at_most,
            detached=s.detached,
            aggregation=s.aggregation,
            constant_length=s.constant_length,
        )
    if s.label_smoothing:
        return label_smoothed(
            out,
            batch,
            smoothing=s.label_smoothing,
            aggregation=s.aggregation,
            constant_length=s.constant_length,
        )
    return nll(out, batch, aggregation=s.aggregation, constant_length=s.constant_length)
