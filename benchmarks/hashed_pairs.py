"""A light reward model for studies: logistic regression on hashed n-grams of an answer and its prompt.

score(x) = w . f(x); trained on pairs by the Bradley-Terry loss, mean softplus(-w . (f(chosen) - f(rejected)))
+ penalty / 2 * |w|^2, which is convex, so a fit has no seed. f holds counts of one to three words of the
answer, those of one and three crossed with the prompt's words that are not of its wording, and the length.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from rewardlab.core.types import Pair
from rewardlab.worlds.advice.questions import WORDINGS

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
COLUMNS = 2**16
WORD = re.compile(r"[a-z]+")
STOP = frozenset(w for text in WORDINGS for w in WORD.findall(re.sub(r"{\w+}", "", text).lower())) | {"and"}
"""Words of the world's question wordings; what is left of a prompt is its topic and its aspects."""


def features(prompt: str, answer: str) -> dict[int, float]:
    """Column -> value; n-gram counts are scaled by 1/2 so that one feature moves a score slowly."""
    words = WORD.findall(answer.lower())
    grams = {n: [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)] for n in (1, 2, 3)}
    content = [w for w in WORD.findall(prompt.lower()) if w not in STOP]
    names = grams[1] + grams[2] + grams[3]
    names += [f"{w}|{gram}" for w in content for gram in grams[1] + grams[3]]
    found: dict[int, float] = {}
    for name in names:
        column = zlib.crc32(name.encode()) % (COLUMNS - 1)
        found[column] = found.get(column, 0.0) + 0.5
    found[COLUMNS - 1] = float(np.log1p(len(words)))
    return found


def difference_matrix(pairs: Sequence[Pair]) -> sparse.csr_matrix:
    """[P, COLUMNS]: f(chosen) - f(rejected)."""
    rows, columns, values = [], [], []
    for row, pair in enumerate(pairs):
        prompt = pair.prompt[-1].content
        for sign, answer in ((1.0, pair.chosen), (-1.0, pair.rejected)):
            for column, value in features(prompt, answer[-1].content).items():
                rows.append(row)
                columns.append(column)
                values.append(sign * value)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(pairs), COLUMNS))


def fit_weights(differences: sparse.csr_matrix, penalty: float) -> Floats:
    """The weights [COLUMNS] that minimise the penalised Bradley-Terry loss."""
    transposed = differences.T.tocsr()

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = differences @ w
        value = float(np.logaddexp(0, -margin).mean() + penalty / 2 * w @ w)
        return value, transposed @ (-special.expit(-margin) / len(margin)) + penalty * w

    found = optimize.minimize(
        loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    return np.asarray(found.x)


def learner(
    differences: sparse.csr_matrix, signs: Floats, penalty: float
) -> Callable[[Indices], Callable[[Indices], Floats]]:
    """Training rows -> margins of any rows; `signs` [P] turn round the pairs whose label is turned round."""
    signed = sparse.diags(signs) @ differences

    def fit(rows: Indices) -> Callable[[Indices], Floats]:
        weights = fit_weights(signed[rows], penalty)
        return lambda asked: np.asarray(signed[asked] @ weights)

    return fit
