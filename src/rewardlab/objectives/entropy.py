"""Entropy of the policy: a bonus with a real gradient, and a controller for its coefficient."""

from __future__ import annotations

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.objectives.reduction import Term, Terms, statistic


def bonus(out: Outputs, batch: Batch, coefficient: float = 0.0) -> Terms:
    """Reward a spread-out policy: loss = -coefficient * mean over trained tokens of H(pi(. | prefix)).

    H in nats, over the whole vocabulary, at the sampling temperature; its gradient flows through the
    distribution and not only through the sampled token (A3C, Mnih et al. 2016, arXiv 1602.01783). With
    coefficient 0 the entropy is reported and not trained on. Weights of `weight` act on the bonus, not on
    the reported mean. Unit: token, whatever the aggregation of the policy loss (as in TRL).
    """
    h = given(out.entropy)
    terms: Terms = {"entropy": statistic((h * batch.trained).sum(), "token")}
    if coefficient:
        terms["entropy_bonus"] = Term((h * batch.weight.to(h)).sum(), "token", -coefficient)
    return terms


def adapt(
    coefficient: float,
    measured: float,
    target: float,
    *,
    step: float = 0.005,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> float:
    """The next coefficient of an adaptive bonus (Skywork-OR1, He et al. 2025, arXiv 2505.22312).

    c <- min(c + step, maximum) where measured <= target, else max(c - step, minimum)

    Pure: call it once per optimiser step with the step's mean entropy.
    """
    return min(coefficient + step, maximum) if measured <= target else max(coefficient - step, minimum)


def active(coefficient: float, measured: float, target: float) -> float:
    """The coefficient to apply now: 0 while the last step's entropy was above the target."""
    return coefficient if measured <= target else 0.0
