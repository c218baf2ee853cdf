"""Raw and length-controlled win rates of systems against a baseline, from a judge's preferences.

The regression of Dubois, Galambosi, Liang and Hashimoto 2024, "Length-Controlled AlpacaEval"
(arXiv 2404.04475): what would the win rate be if every answer were as long as the baseline's?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rewardlab.core.statistics import Interval, mean_interval
from rewardlab.core.statistics.interval import Floats
from rewardlab.core.statistics.logistic import fit_logit

RIDGE = 1.0
"""A unit Gaussian prior on each coefficient: a few hundred answers overrule it, and a system whose wins can
be separated by length keeps finite coefficients."""


@dataclass(frozen=True)
class Preferences:
    """A judge's preferences between one system and the baseline, one entry per instruction."""

    instruction: NDArray[np.intp]
    p: Floats
    """Float[N]: probability that the system's answer is better; a tie is 1/2."""
    length: Floats
    """Float[N]: characters of the system's answer."""
    baseline_length: Floats

    def __len__(self) -> int:
        return len(self.p)


@dataclass(frozen=True)
class WinRate:
    """Win rates of one system, in percent, and the regression behind the length-controlled one."""

    raw: Interval
    length_controlled: Interval
    length: float
    """Mean number of characters."""
    coefficients: tuple[float, float, float]
    """Of tanh length difference, difficulty and intercept."""


def length_term(length: Floats, baseline_length: Floats) -> Floats:
    """tanh((length - baseline) / sd of these differences); 0 where all differences are equal."""
    difference = length - baseline_length
    spread = float(difference.std())
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def win_rate(
    data: Preferences,
    difficulty: Mapping[int, float],
    *,
    seed: int,
    ridge: float = RIDGE,
    resamples: int = 500,
    level: float = 0.95,
) -> WinRate:
    """One system's raw and length-controlled win rate.

    logit p_x = phi tanh((length_x - baseline_x) / sd) + psi difficulty_x + theta
    raw = 100 mean p_x;  length-controlled = 100 mean sigma(psi difficulty_x + theta)

    The raw interval is a BCa bootstrap over instructions; the other a percentile bootstrap that refits the
    regression on every resample (the sd is kept). An instruction without a difficulty gets 0, the mean.
    """
    hard = np.array([difficulty.get(int(i), 0.0) for i in data.instruction])
    x = np.stack([length_term(data.length, data.baseline_length), hard, np.ones(len(data))], 1)
    n = len(data)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    weights = np.concatenate([np.ones((1, n)), draws])
    b = fit_logit(x, data.p, np.full(3, ridge), weights)
    controlled = 100 * (weights * expit(b[:, 1:] @ x[:, 1:].T)).sum(1) / n
    tail = (1 - level) / 2
    low, high = np.quantile(controlled[1:], [tail, 1 - tail])
    return WinRate(
        mean_interval(100 * data.p, seed=seed, level=level),
        Interval(float(controlled[0]), float(low), float(high), n, level),
        float(data.length.mean()),
        (float(b[0, 0]), float(b[0, 1]), float(b[0, 2])),
    )


def estimated_difficulty(systems: Mapping[str, Preferences], *, rounds: int = 30) -> dict[int, float]:
    """Instruction -> how much easier it makes winning against the baseline, in standard deviations.

    logit p_mx = theta_m + phi_m tanh((length - baseline) / sd_m) + gamma_x

    with a unit Gaussian prior on phi and gamma, fitted to all systems together by turns of Newton steps;
    gamma is then centred and divided by its standard deviation. For data without a published difficulty.
    """
    parts = list(systems.values())
    system = np.repeat(np.arange(len(parts)), [len(s) for s in parts])
    ids, instruction = np.unique(np.concatenate([s.instruction for s in parts]), return_inverse=True)
    p = np.concatenate([s.p for s in parts])
    term = np.concatenate([length_term(s.length, s.baseline_length) for s in parts])
    one = np.ones_like(p)
    theta, phi, gamma = np.zeros(len(parts)), np.zeros(len(parts)), np.zeros(len(ids))
    turns = ((theta, system, one, 1e-3), (phi, system, term, 1.0), (gamma, instruction, one, 1.0))
    for _ in range(rounds):
        for values, index, factor, prior in turns:
            mean = expit(theta[system] + phi[system] * term + gamma[instruction])
            slope = np.bincount(index, factor * (p - mean), len(values)) - prior * values
            curve = np.bincount(index, factor**2 * mean * (1 - mean), len(values)) + prior
            values += np.clip(slope / curve, -1, 1)
    spread = float(gamma.std()) or 1.0
    scaled = (gamma - gamma.mean()) / spread
    return {int(i): float(g) for i, g in zip(ids, scaled)}


def published_win_rate(difficulty: Mapping[int, float], psi: float, theta: float) -> float:
    """The length-controlled win rate in percent that published coefficients give: 100 mean sigma(...)."""
    return float(100 * expit(psi * np.array(list(difficulty.values())) + theta).mean())
