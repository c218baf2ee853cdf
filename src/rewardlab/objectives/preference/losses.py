"""The loss of one pair, for every method: plain tensors Float[P] in, Float[P] out.

Notation: c and r are the scores of the chosen and the rejected answer, without other word their log-prob
ratios to the reference, log pi(y) - log ref(y), summed over the trained tokens; gap = c - r; y is the
probability that chosen is the better one (1 for a hard label). A margin m has already been taken off:
c - m / (2 beta) and r + m / (2 beta), so beta * gap is smaller by m, whatever the method (DPO with an
offset, Amini et al. 2024, arXiv 2402.10571).

Where no other rule is given, a soft label means the expectation over the label: y loss(c, r) +
(1 - y) loss(r, c). Swapping the two answers and turning y into 1 - y changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardlab.objectives.reward import soft_logistic


def over_label(loss: Callable[[Tensor], Tensor], gap: Tensor, label: Tensor) -> Tensor:
    """y loss(gap) + (1 - y) loss(-gap)."""
    return label * loss(gap) + (1 - label) * loss(-gap)


def over_order(
    loss: Callable[[Tensor, Tensor], Tensor], chosen: Tensor, rejected: Tensor, label: Tensor
) -> Tensor:
    """y loss(c, r) + (1 - y) loss(r, c)."""
    return label * loss(chosen, rejected) + (1 - label) * loss(rejected, chosen)


def sigmoid(gap: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """DPO: -y log sigmoid(beta gap) - (1 - y) log sigmoid(-beta gap) (Rafailov et al., arXiv 2305.18290).

    With y = 1 - e it is conservative DPO (cDPO, Mitchell 2023). At the reference it is log 2.
    """
    return soft_logistic(beta * gap, label)


def robust(gap: Tensor, label: Tensor, *, beta: float, flip_rate: float) -> Tensor:
    """Robust DPO: unbiased where each label was flipped with probability e < 1/2 (arXiv 2403.00409).

    loss = [(1 - e) L(gap) - e L(-gap)] / (1 - 2e), L = -log sigmoid(beta .)

    Its mean over the flips is the loss of the clean labels. It is not bounded below: a pair can gain
    without end from a large wrong gap, which is the price of being unbiased.
    """
    return soft_logistic(beta * gap, (label - flip_rate) / (1 - 2 * flip_rate))


def hinge(gap: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - beta gap) (SLiC, arXiv 2305.10425, with DPO's ratio as in RSO, arXiv 2309.06657).

    The gradient is exactly zero once beta gap > 1.
    """
    return over_label(lambda g: torch.relu(1 - beta * g), gap, label)


def ipo(gap: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """IPO: (gap - 1 / (2 beta))^2 (Azar et al. 2023, arXiv 2310.12036, eq. 17; beta is its tau).

    The minimum over soft labels is gap = (y - 1/2) / beta, finite even for y = 1. With the knob
    `ipo_average` (the default, as in TRL and the authors' runs) c and r are per token: divided by their
    answers' numbers of tokens; without it they are sums, as the paper has it.
    """
    return over_label(lambda g: (g - 1 / (2 * beta)) ** 2, gap, label)


def exo_pair(gap: Tensor, label: Tensor, *, beta: float, epsilon: float) -> Tensor:
    """EXO for two answers: KL(q || p), the reverse of DPO's direction (arXiv 2402.00856, eq. 16).

    q = sigmoid(beta gap), p = y (1 - e) + (1 - y) e
    loss = q log(q / p) + (1 - q) log((1 - q) / (1 - p))

    The soft label is the target distribution itself, so the minimum is at sigmoid(beta gap) = p with
    value 0. epsilon keeps log p finite for hard labels; the paper uses 1e-3.
    """
    x = beta * gap
    target = label * (1 - epsilon) + (1 - label) * epsilon
    win = torch.sigmoid(x) * (F.logsigmoid(x) - torch.log(target))
    return win + torch.sigmoid(-x) * (F.logsigmoid(-x) - torch.log1p(-target))


def discopop(gap: Tensor, label: Tensor, *, beta: float, tau: float) -> Tensor:
    """DiscoPOP: a blend of the logistic and the exponential loss (Lu et al. 2024, arXiv 2406.08414, eq. 5).

    x = beta gap, k = sigmoid(x / tau), loss = (1 - k) (-log sigmoid(x)) + k exp(-x)

    tau <= 1: k exp(-x) is computed as exp(log k - x), which then cannot overflow. Not convex:
    below tau = 0.10 its slope at the reference is positive, beta (0.0767 / tau - 0.75), so that training
    starts by lowering the gap, towards a local minimum just below zero.
    """

    def blend(g: Tensor) -> Tensor:
        x = beta * g
        exponential = torch.exp(F.logsigmoid(x / tau) - x)
        return torch.sigmoid(-x / tau) * -F.logsigmoid(x) + exponential

    return over_label(blend, gap, label)


def nca_pair(chosen: Tensor, rejected: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """NCA: -log sigmoid(beta c) - 1/2 log sigmoid(-beta c) - 1/2 log sigmoid(-beta r) (arXiv 2402.05369).

    It reads each answer's own ratio and not only the gap, so the chosen one is kept from falling.
    """

    def loss(c: Tensor, r: Tensor) -> Tensor:
        return -F.logsigmoid(beta * c) - 0.5 * F.logsigmoid(-beta * c) - 0.5 * F.logsigmoid(-beta * r)

    return over_order(loss, chosen, rejected, label)


def bco_pair(chosen: Tensor, rejected: Tensor, label: Tensor, *, beta: float, delta: float) -> Tensor:
    """BCO: a binary classifier of answers (Jung et al. 2024, arXiv 2404.04656).

    loss = -log sigmoid(beta c - delta) - log sigmoid(-(beta r - delta))

    delta is the running mean of both classes' rewards, kept outside (`running_delta`); TRL's `bco_pair`
    has delta = 0.
    """

    def loss(c: Tensor, r: Tensor) -> Tensor:
        return -F.logsigmoid(beta * c - delta) - F.logsigmoid(delta - beta * r)

    return over_order(loss, chosen, rejected, label)


def sppo_hard(chosen: Tensor, rejected: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """SPPO: regress each ratio on its win probability (Wu et al. 2024, arXiv 2405.00675, eq. 4.7).

    loss = (c - (y - 1/2) / beta)^2 + (r + (y - 1/2) / beta)^2

    `hard` for y = 1, which is all TRL has; a soft label is the paper's own, soft form.
    """
    target = (label - 0.5) / beta
    return (chosen - target) ** 2 + (rejected + target) ** 2


def apo_zero(chosen: Tensor, rejected: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """APO-zero: 1 - sigmoid(beta c) + sigmoid(beta r) (D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7).

    Raises the chosen and lowers the rejected answer; for chosen answers better than the policy's own.
    """

    def loss(c: Tensor, r: Tensor) -> Tensor:
        return torch.sigmoid(-beta * c) + torch.sigmoid(beta * r)

    return over_order(loss, chosen, rejected, label)


def apo_down(chosen: Tensor, rejected: Tensor, label: Tensor, *, beta: float) -> Tensor:
    """APO-down: sigmoid(beta c) + 1 - sigmoid(beta (c - r)) (arXiv 2408.06266, eq. 8).

    Lowers both and the rejected one more; for chosen answers worse than the policy's own.
    """

    def loss(c: Tensor, r: Tensor) -> Tensor:
        return torch.sigmoid(beta * c) + torch.sigmoid(-beta * (c - r))

    return over_order(loss, chosen, rejected, label)


def simpo(gap: Tensor, label: Tensor, *, beta: float, gamma: float) -> Tensor:
    """SimPO: -log sigmoid(beta gap - gamma), no reference (Meng et al. 2024, arXiv 2405.14734).

    c and r are mean log-probs per token. The authors' runs have beta 2 to 2.5 and gamma 0.25 to 1.6; TRL
    calls gamma `simpo_gamma`. gamma belongs to the better answer: for y = 0 it stands on the other side.
    """
    return over_label(lambda g: -F.logsigmoid(beta * g - gamma), gap, label)


def odds_ratio(chosen: Tensor, rejected: Tensor, label: Tensor, margin: Tensor) -> Tensor:
    """ORPO's second term: -log sigmoid(log odds(c) - log odds(r) - m) (Hong et al. 2024, arXiv 2403.07691).

    log odds(x) = x - log(1 - exp(x)), x the mean log-prob per token. A certain answer (x = 0) has
    infinite odds; 1 - exp(x) is kept above 1e-7.
    """

    def log_odds(x: Tensor) -> Tensor:
        return x - torch.log(-torch.expm1(x.clamp(max=-1e-7)))

    return soft_logistic(log_odds(chosen) - log_odds(rejected) - margin, label)
