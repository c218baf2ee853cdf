"""How often labels are wrong: from several annotators' votes, or from cross-fitted probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardlab.core.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DawidSkene:
    """What N items with votes of A annotators over K classes say."""

    posterior: Floats
    """[N, K]: probability of each true class."""
    confusion: Floats
    """[A, K, K]: P(annotator votes l | the true class is k), rows k."""
    prior: Floats
    """[K]: share of each true class."""
    log_likelihood: float
    """Of the votes, without the smoothing."""
    iterations: int
    converged: bool

    @property
    def error_rate(self) -> Floats:
        """[A]: each annotator's rate of wrong votes at the estimated shares of classes."""
        return np.asarray(1 - np.einsum("k,akk->a", self.prior, self.confusion))


def dawid_skene(
    votes: ArrayLike, classes: int, *, smoothing: float = 0.1, iterations: int = 500, tolerance: float = 1e-7
) -> DawidSkene:
    """EM for the true classes and each annotator's confusion matrix (Dawid and Skene 1979).

    P(votes of item i, class k) = prior[k] * prod_a confusion[a, k, votes[i, a]], annotators independent given
    the class. votes [N, A] are 0..K-1, or -1 where somebody did not vote. Starts from the vote shares;
    `smoothing` is a pseudo-count per cell. Errors that annotators share (a common taste, hard items) look
    like truth to it, so it errs towards too little noise; two annotators alone do not identify it.
    """
    v = np.asarray(votes)
    if v.ndim != 2 or v.size == 0 or not np.issubdtype(v.dtype, np.integer):
        raise UserError(f"Votes must be whole numbers [items, annotators], got shape {v.shape}.", "Recode.")
    if smoothing <= 0 or iterations < 1:
        raise UserError("Dawid-Skene needs smoothing above 0 and an iteration.", "Leave the defaults.")
    if classes < 2 or v.min() < -1 or v.max() >= classes:
        raise UserError(
            f"A vote is not one of 0..{classes - 1} (or -1).", "Recode the votes, or raise classes."
        )
    if (v < 0).all(1).any():
        raise UserError("An item has no vote at all.", "Leave such items out.")
    cast = np.eye(classes + 1)[v][..., :classes]  # [N, A, K]; -1 takes the last row, whose K columns are 0
    posterior = cast.sum(1) / cast.sum((1, 2))[:, None]
    before, used, converged = -np.inf, 0, False
    while used < iterations and not converged:
        prior = posterior.sum(0) + smoothing
        prior /= prior.sum()
        confusion = np.einsum("ik,ial->akl", posterior, cast) + smoothing
        confusion /= confusion.sum(-1, keepdims=True)
        log_joint = np.log(prior) + np.einsum("ial,akl->ik", cast, np.log(confusion))
        log_evidence = np.logaddexp.reduce(log_joint, axis=1)
        posterior = np.exp(log_joint - log_evidence[:, None])
        penalised = float(log_evidence.sum() + smoothing * (np.log(prior).sum() + np.log(confusion).sum()))
        converged = penalised - before <= tolerance * abs(penalised)
        before, used = penalised, used + 1
    return DawidSkene(posterior, confusion, prior, float(log_evidence.sum()), used, converged)


@dataclass(frozen=True)
class FlipEstimate:
    """How many pair labels look turned round, and which."""

    rate: float
    """Estimated share of flipped labels; nan if no pair was confident either way."""
    threshold: float
    """Mean probability of the given label: the bar of both counts."""
    confirmed: int
    flipped: int
    suspect: NDArray[np.bool_]
    """Bool[N]: the round(rate * N) pairs whose label is the least probable."""


def flip_rate(probability: ArrayLike) -> FlipEstimate:
    """Confident learning for pairs (Northcutt, Jiang and Chuang, arXiv 1911.00068).

    probability [N]: cross-fitted P(chosen is better). A pair in random order has two classes that mirror each
    other, so their thresholds are one, t = mean probability of the given label. Pairs with p >= t are counted
    as confirmed, those with 1 - p >= t as flipped (both: the larger p); rate = flipped / (both counts).
    In-sample probabilities hide the noise. Confident learning assumes that noise depends on the class alone
    and that confident pairs are right: a weak scorer makes the rate too high, since its own errors count.
    """
    p = np.asarray(probability, np.float64)
    if p.ndim != 1 or p.size == 0 or not ((p >= 0) & (p <= 1)).all():
        raise UserError("Probabilities must be a non-empty list within [0, 1].", "Pass sigmoid(margin).")
    bar = float(p.mean())
    flipped = int(((1 - p >= bar) & (p < 0.5)).sum())
    confirmed = int(((p >= bar) & (p >= 0.5)).sum())
    total = confirmed + flipped
    rate = flipped / total if total else float("nan")
    suspect = np.zeros(p.size, np.bool_)
    if total:
        suspect[np.argsort(p, kind="stable")[: round(rate * p.size)]] = True
    return FlipEstimate(rate, bar, confirmed, flipped, suspect)
