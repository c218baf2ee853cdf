"""Divergence from the reference, estimated on the policy's own tokens.

With d = log pi(t) - log ref(t) and u = ref(t) / pi(t) = exp(-d) on t ~ pi (Schulman 2020,
"Approximating KL divergence"); shapes [T], nats per token:

| estimator | reverse KL(pi || ref) | forward KL(ref || pi) | value                               |
|-----------|-----------------------|-----------------------|-------------------------------------|
| k1        | d                     | -u d                  | unbiased, high variance, any sign   |
| k2        | d^2 / 2               | d^2 / 2               | biased, never negative              |
| k3        | u - 1 + d             | 1 - u - u d           | unbiased, never negative            |
| full      | sum_v pi (lp - lr)    | sum_v ref (lr - lp)   | exact, needs the whole vocabulary   |

Where it stands matters. In the reward any estimator is a constant to the gradient. In the loss the
expected *gradient* is what counts, and it is not the gradient of the estimator's expectation:

- k1 has zero expected gradient and is refused; k2's is that of the reverse KL.
- plain k3's is that of the *forward* KL, though its value estimates the reverse one. TRL's and verl's
  k3 without importance weights is this. Here it needs `importance` switched off.
- k3 times the ratio pi / pi_old has the reverse KL's gradient; so has k2 times the detached ratio.
- "k3+" (verl's name) is straight-through: the value of k3, the gradient of k2.

On answers of several tokens a per-token KL in the loss is a partial gradient (arXiv 2506.09477): it leaves
out how a token changes the KL of later tokens, so training does not end at ref * exp(r / beta) / Z but at
pi(a|s) proportional to ref(a|s) exp(E_pi[r | s, a] / beta). In the reward it ends at the former. Both are
shown on an enumerable policy in tests/exactness.

d is cut at -20 where it is exponentiated (u <= 4.9e8): beyond that a token has no gradient from u.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.errors import UserError

Estimator = Literal["k1", "k2", "k3", "k3+"]
Direction = Literal["reverse", "forward"]
Placement = Literal["reward", "loss"]

BOUND = 20.0


def check(estimator: Estimator, placement: Placement, direction: Direction = "reverse") -> None:
    """Refuse the combinations that silently train nothing or something else."""
    if estimator == "k1" and placement == "loss":
        raise UserError(
            "kl: the estimator k1 in the loss has zero expected gradient, so it would do nothing.",
            "Use k2 or k3 in the loss, or placement: reward with k1.",
        )
    if direction == "forward" and placement == "loss" and estimator == "k2":
        raise UserError(
            "kl: the gradient of k2 is that of the reverse KL, not of the forward one.",
            "Use k3 for the forward direction.",
        )


def estimate(
    logp: Tensor, logp_ref: Tensor, estimator: Estimator, direction: Direction = "reverse"
) -> Tensor:
    """The chosen estimator per token, Float[T]; see the module's table. Its own gradient is the plain one."""
    d = logp - logp_ref
    if estimator == "k2":
        return 0.5 * d**2
    bounded = d.clamp(min=-BOUND)
    if direction == "reverse":
        return d if estimator == "k1" else torch.expm1(-bounded) + bounded
    weighted = -bounded * (-bounded).exp()  # u log u
    return weighted if estimator == "k1" else weighted - torch.expm1(-bounded)


def loss(
    logp: Tensor,
    logp_ref: Tensor,
    estimator: Estimator,
    *,
    direction: Direction = "reverse",
    log_ratio: Tensor | None = None,
) -> Tensor:
    """A per-token loss whose expected gradient is that of the chosen divergence, Float[T].

    `log_ratio` = log pi - log pi_old of the tokens' own sampling policy, with gradient, corrects for
    samples that are not fresh; cut to +-20. On fresh samples it is 0 in value and still carries the
    gradient. Without it the samples are taken as fresh:

    reverse, k2: sg[ratio] k2.  reverse, k3: ratio * k3; **without log_ratio plain k3, whose gradient is
    the forward KL's**.  reverse, k3+: sg[ratio] * (value of k3, gradient of k2).
    forward, k3 and k3+: sg[ratio] * (value of the forward k3, gradient (1 - u) grad log pi).

    k1 is refused, and k2 in the forward direction.
    """
    check(estimator, "loss", direction)
    ratio = None if log_ratio is None else log_ratio.clamp(-BOUND, BOUND).exp()
    if direction == "forward":
        gradient = estimate(logp, logp_ref, "k3")
        return _scaled(_straight_through(estimate(logp, logp_ref, "k3", "forward"), gradient), ratio)
    if estimator == "k2":
        return _scaled(estimate(logp, logp_ref, "k2"), ratio)
    value = estimate(logp, logp_ref, "k3")
    if estimator == "k3+":
        return _scaled(_straight_through(value, estimate(logp, logp_ref, "k2")), ratio)
    return value if ratio is None else ratio * value


def full(logps: Tensor, logps_ref: Tensor, direction: Direction = "reverse") -> Tensor:
    """The exact KL over the vocabulary, with its exact gradient. Float[T, V], Float[T, V] -> Float[T].

    reverse: sum_v pi(v) (log pi(v) - log ref(v));  forward: sum_v ref(v) (log ref(v) - log pi(v))

    Both arguments are log-probs that sum to one. A token that the first distribution gives probability 0
    adds 0; one that only the second gives 0 makes the KL infinite, as it is.
    """
    first, second = (logps, logps_ref) if direction == "reverse" else (logps_ref, logps)
    possible = first > -torch.inf
    safe = torch.where(possible, first, torch.zeros_like(first))
    gap = torch.where(possible, safe - second, torch.zeros_like(first))
    return (torch.where(possible, safe.exp(), torch.zeros_like(first)) * gap).sum(-1)


def adaptive(
    coefficient: float, measured: float, target: float, *, samples: int, horizon: float = 10000.0
) -> float:
    """The proportional controller of Ziegler et al. 2019 (arXiv 1909.08593): hold the KL near a target.

    c <- c (1 + clip(measured / target - 1, -0.2, 0.2) * samples / horizon)

    `measured` and `target` in the same unit (nats per token or per sequence); `samples`: sequences since
    the last call. It pulls towards the target from both sides: a KL below it lowers the coefficient.
    """
    if target <= 0 or horizon <= 0:
        raise UserError("kl: the adaptive controller needs a target and a horizon above 0.")
    error = min(max(measured / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * min(samples / horizon, 1.0))


def budgeted(
    coefficient: float, measured: float, budget: float, *, rate: float, maximum: float = 10.0
) -> float:
    """Projected dual ascent: spend at most a budget of KL, and pay nothing below it.

    c <- min(max(c + rate (measured - budget), 0), maximum)

    The coefficient is the price of the constraint KL <= budget; it falls to exactly 0 where the budget is
    not used, which `adaptive` never does. `rate` in coefficient per nat.
    """
    return min(max(coefficient + rate * (measured - budget), 0.0), maximum)


def _straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of the first and the gradient of the second."""
    return value.detach() + gradient - gradient.detach()


def _scaled(x: Tensor, ratio: Tensor | None) -> Tensor:
    return x if ratio is None else x * ratio.detach()
