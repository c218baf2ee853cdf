"""From wins within a group to one strength per answer. Pure functions of a matrix of wins.

`wins` Float[G, G]: how much of their `games` Float[G, G] the row won against the column. A game is a compared
pair; with probabilities as verdicts a win is a fraction. wins + wins.T = games, games is symmetric, and
both diagonals are 0. An answer without a game has no strength: NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def win_share(wins: Floats, games: Floats) -> Floats:
    """Float[G]: wins / games of each answer; in a full round-robin they have the mean 1/2."""
    played = games.sum(1)
    return np.where(played > 0, wins.sum(1) / np.where(played > 0, played, 1), np.nan)


def win_share_error(wins: Floats, games: Floats) -> Floats:
    """Float[G]: standard error of the win share with the prior of half a win and half a loss.

    sqrt(p (1 - p) / (n + 1)), p = (w + 1/2) / (n + 1): finite and not 0 for an undefeated answer. Fractional
    wins vary less than coin tosses, so for them it is an upper bound.
    """
    played = games.sum(1)
    p = (wins.sum(1) + 0.5) / (played + 1)
    return np.where(played > 0, np.sqrt(p * (1 - p) / (played + 1)), np.nan)


def elo(wins: Floats, games: Floats, order: NDArray[np.int64], *, k: float = 32.0) -> Floats:
    """Float[G]: Elo ratings around 1000 after the pairs of `order` Long[M, 2], one after another.

    R_a += k (s - 1 / (1 + 10^((R_b - R_a) / 400))), R_b the opposite; s = wins[a, b] / games[a, b].
    The result depends on the order, so pass a random one; `bradley_terry` does not.
    """
    rating = np.full(len(wins), 1000.0)
    for a, b in order:
        expected = 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400))
        gain = k * (wins[a, b] / games[a, b] - expected)
        rating[a] += gain
        rating[b] -= gain
    return np.where(games.sum(1) > 0, rating, np.nan)


def bradley_terry(
    wins: Floats, games: Floats, *, prior: float = 0.5, tolerance: float = 1e-10, most: int = 10_000
) -> Floats:
    """Float[G]: log-strengths theta of P(i beats j) = sigmoid(theta_i - theta_j), by the MM algorithm.

    maximise sum_ij wins_ij log sigmoid(theta_i - theta_j)
             + prior sum_i [log sigmoid(theta_i) + log sigmoid(-theta_i)]
    p_i <- (wins_i + prior) / (sum_j games_ij / (p_i + p_j) + 2 prior / (p_i + 1)), theta = log p

    Hunter 2004, "MM algorithms for generalized Bradley-Terry models". The prior is `prior` wins and losses
    of every answer against a fixed opponent of strength 0: it makes undefeated answers finite, ties
    together parts of a sampled tournament that never met, and fixes the origin. It must be positive.
    """
    if not prior > 0:
        raise ValueError(f"Bradley-Terry needs a positive prior, got {prior}")
    won = wins.sum(1) + prior
    p = np.ones(len(wins))
    for _ in range(most):
        new = won / ((games / (p[:, None] + p)).sum(1) + 2 * prior / (p + 1))
        moved = np.abs(np.log(new) - np.log(p)).max(initial=0.0)
        p = new
        if moved < tolerance:
            break
    return np.where(games.sum(1) > 0, np.log(p), np.nan)


def bradley_terry_error(theta: Floats, games: Floats, *, prior: float = 0.5) -> Floats:
    """Float[G]: standard errors of Bradley-Terry log-strengths: root of the inverse information's diagonal.

    information_ii = sum_j games_ij v(theta_i - theta_j) + 2 prior v(theta_i), off the diagonal
    -games_ij v(theta_i - theta_j), where v(x) = sigmoid(x) sigmoid(-x).
    """
    at = np.where(np.isnan(theta), 0.0, theta)
    variance = 1 / (2 + 2 * np.cosh(at[:, None] - at))
    information = np.diag((games * variance).sum(1) + 2 * prior / (2 + 2 * np.cosh(at))) - games * variance
    return np.where(np.isnan(theta), np.nan, np.sqrt(np.diag(np.linalg.inv(information))))
