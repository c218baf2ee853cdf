"""distinct-n over equal-size corpora: the share of n-grams that are different from each other.

distinct-n (Li et al. 2016, arXiv 1510.03055) falls as a corpus grows, so a policy that writes longer
looks less diverse. Here the j-th answers of all policies to a prompt are cut to the shortest of them
before counting: every policy contributes the same number of tokens, and of n-grams, from the same prompts.

The interval is a jackknife over prompts. A bootstrap would draw some prompts twice, and a text drawn
twice adds no new n-gram, so its replicates lie below the estimate. The jackknife errs on the wide side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rewardlab.core.types import Rollout
from rewardlab.evaluation.alignment import Alignment
from rewardlab.evaluation.measure import Measure, jackknife_measure

Ints = NDArray[np.int64]
Corpus = list[list[tuple[int, ...]]]
"""[P][samples] -> action ids."""


def equal_size_corpora(rollouts: Mapping[str, Sequence[Rollout]], alignment: Alignment) -> dict[str, Corpus]:
    """Action ids of each policy, cut to equal numbers of answers per prompt and of tokens per answer."""
    actions = {
        policy: [tuple(t for t, a in zip(r.sequence.ids, r.sequence.action) if a) for r in rows]
        for policy, rows in rollouts.items()
    }
    out: dict[str, Corpus] = {policy: [] for policy in rollouts}
    for i in range(len(alignment.prompts)):
        answers = {p: [actions[p][j] for j in alignment.rows[p][i]] for p in rollouts}
        samples = min(len(a) for a in answers.values())
        sizes = [min(len(a[j]) for a in answers.values()) for j in range(samples)]
        for policy, mine in answers.items():
            out[policy].append([mine[j][: sizes[j]] for j in range(samples)])
    return out


def distinct_measure(corpus: Corpus, n: int, level: float) -> Measure | None:
    """distinct-n with its jackknife interval; n-grams do not cross answers. None if there is no n-gram.

    Leaving prompt i out removes the n-grams seen nowhere else: (D - only_i) / (N - N_i). A corpus whose
    n-grams all belong to one prompt has no leave-one-out value there; it is taken as the estimate.
    """
    grams, owners = _grams(corpus, n)
    if not grams.size:
        return None
    order = np.lexsort((owners, grams))
    grams, owners = grams[order], owners[order]
    first = np.flatnonzero(np.r_[True, grams[1:] != grams[:-1]])
    last = np.r_[first[1:], grams.size] - 1
    # Sorted by owner within a gram, so equal owners at both ends mean that one prompt has them all.
    alone = owners[first][owners[first] == owners[last]]
    only = np.bincount(alone, minlength=len(corpus))
    sizes = np.bincount(owners, minlength=len(corpus))
    distinct, total = first.size, grams.size
    estimate = distinct / total
    rest = total - sizes
    without = np.where(rest > 0, (distinct - only) / np.maximum(rest, 1), estimate)
    return jackknife_measure(estimate, without, level)


def _grams(corpus: Corpus, n: int) -> tuple[Ints, Ints]:
    """Every n-gram as one number, and the prompt it was seen at. Exact while vocabulary^n < 2^63."""
    answers = [(i, ids) for i, row in enumerate(corpus) for ids in row if len(ids) >= n]
    base = 1 + max((max(ids) for _, ids in answers), default=0)
    codes, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i, ids in answers:
        x = np.array(ids, dtype=np.int64)
        code = np.zeros(x.size - n + 1, np.int64)
        for k in range(n):
            code = code * base + x[k : x.size - n + 1 + k]
        codes.append(code)
        owners.append(np.full(code.size, i, np.int64))
    return np.concatenate(codes), np.concatenate(owners)
