"""Best-of-n as a policy: what keeping the best of n answers by a proxy would give, for every n at once.

From N answers to a prompt, sorted by the proxy so that v_(1) belongs to the worst, the mean over all
subsets of n answers of the value v of the subset's best is

E_n = sum_{i=n..N} C(i-1, n-1) / C(N, n) * v_(i),

which is unbiased for the expected value of the best of n fresh answers (the estimator of pass@k, Chen et
al. 2021, arXiv 2107.03374, for any value; Nakano et al. 2021, arXiv 2112.09332, appendix). With v the proxy
it is the expected maximum; with v the gold reward, the gold of what the proxy picks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from rewardlab.core.errors import UserError
from rewardlab.core.statistics import mean_interval

Floats = NDArray[np.float64]


def selection_weights(proxy: ArrayLike, n: int) -> Floats:
    """Float[N]: the probability that each answer is the best of a random subset of n of the N answers.

    The estimate E_n is their inner product with the values. Answers that tie in the proxy are picked with
    equal probability. Sums to 1. Raises ValueError for n
    outside 1..N.
    """
    x = np.asarray(proxy, dtype=np.float64)
    total = x.size
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} cannot be estimated from {total} answers")
    rank = np.arange(n, total + 1)
    by_rank = np.zeros(total)
    by_rank[n - 1 :] = np.exp(_log_choose(rank - 1, n - 1) - _log_choose(np.array(total), n))
    _, block = np.unique(x, return_inverse=True)
    shared = np.bincount(block[np.argsort(x, kind="stable")], weights=by_rank) / np.bincount(block)
    weights: Floats = shared[block]
    return weights


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound of the KL of best-of-n from the policy it samples from.

    Equality where no two answers tie (Beirami et al. 2024, arXiv 2401.01879); ties and a policy with few
    answers only lower it.
    """
    return math.log(n) - (n - 1) / n


def best_of_n(
    columns: Mapping[str, Sequence[float]],
    prompt: Sequence[int],
    *,
    proxy: str,
    sizes: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """The curve over `sizes`: for each n the expected value in every column of the answer the proxy picks.

    `columns` name -> one value an answer, nan where the reward abstained or failed; `prompt` says which
    prompt each answer is to. An answer without a value in some column is left out, and a prompt with fewer
    than max(sizes) answers left is too, so that all n are about the same prompts; both are counted. The
    intervals are over prompts. `kl_bound` is in nats.
    """
    if proxy not in columns:
        raise UserError(f"best_of_n: there is no reward {proxy!r}.", f"Rewards: {', '.join(columns)}.")
    table = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    scored = np.all([np.isfinite(v) for v in table.values()], axis=0)
    owner = np.asarray(prompt)
    answers = [np.flatnonzero(scored & (owner == p)) for p in np.unique(owner)]
    used = [a for a in answers if a.size >= max(sizes)]
    if not used:
        raise UserError(
            f"best_of_n: no prompt has {max(sizes)} answers with a value of every reward.",
            "Lower `sizes`, raise `samples_per_prompt`, or look at why the rewards failed.",
        )
    curve = []
    for n in sizes:
        weights = [selection_weights(table[proxy][a], n) for a in used]
        means = {
            name: mean_interval([float(w @ v[a]) for w, a in zip(weights, used)], seed=seed).as_dict()
            for name, v in table.items()
        }
        curve.append({"n": n, "kl_bound": kl_bound(n), "rewards": means})
    return {
        "proxy": proxy,
        "curve": curve,
        "prompts": len(used),
        "prompts_left_out": len(answers) - len(used),
        "answers_left_out": int((~scored).sum()),
    }


def _log_choose(n: NDArray[Any], k: int) -> Floats:
    found: Floats = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return found
