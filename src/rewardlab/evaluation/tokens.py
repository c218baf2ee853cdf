"""KL from the reference and entropy, from the log-probs and entropies of each rollout's actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.evaluation.alignment import Alignment
from rewardlab.evaluation.measure import Measure, mean_measure, ratio_measure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenStatistics:
    """What was measured at the actions of one rollout, in order; each has `sequence.actions` entries."""

    logp_policy: ArrayLike | None = None
    """Nats, under the policy that sampled the rollout."""
    logp_ref: ArrayLike | None = None
    """Nats, under the reference."""
    entropy: ArrayLike | None = None
    """Nats, of the distribution each action was drawn from."""


def _column(statistics: Sequence[TokenStatistics], name: str) -> list[Floats] | None:
    """The named array of every rollout, or None unless all rollouts have it."""
    columns = [getattr(s, name) for s in statistics]
    if any(c is None for c in columns):
        return None
    return [np.asarray(c, dtype=np.float64) for c in columns]


def check_tokens(policy: str, rollouts: Sequence[Rollout], statistics: Sequence[TokenStatistics]) -> None:
    """One entry per rollout and one finite number per action, or a UserError that names the rollout."""
    if len(statistics) != len(rollouts):
        raise UserError(
            f"Policy {policy} has {len(rollouts)} rollouts but {len(statistics)} token statistics.",
            "Pass one TokenStatistics per rollout, in the same order.",
        )
    for name in ("logp_policy", "logp_ref", "entropy"):
        for i, column in enumerate(_column(statistics, name) or ()):
            actions = rollouts[i].sequence.actions
            if column.shape != (actions,) or not np.isfinite(column).all():
                raise UserError(
                    f"Rollout {i} of policy {policy}: {name} needs {actions} finite numbers, one per action; "
                    f"it has shape {column.shape}.",
                    "Select the action positions before passing them in.",
                )


def kl_measures(
    statistics: Sequence[TokenStatistics], rows: Sequence[Sequence[int]], seed: int, level: float
) -> dict[str, Measure]:
    """`kl` per sequence and `kl_per_token`, KL(policy || reference) in nats.

    The k1 Monte-Carlo estimate on the policy's own samples: kl = mean of sum_t (logp_policy - logp_ref),
    within prompts and then over prompts. It can be negative on few samples. kl_per_token is the ratio of
    that total to the total number of actions; it varies less, as both grow with length.
    Empty where the log-probs are not given.
    """
    policy, reference = _column(statistics, "logp_policy"), _column(statistics, "logp_ref")
    if policy is None or reference is None:
        return {}
    sums = np.array([(p - r).sum() for p, r in zip(policy, reference)])
    sizes = np.array([float(p.size) for p in policy])
    per_prompt = np.array([sums[list(r)].mean() for r in rows])
    tokens = np.array([sizes[list(r)].mean() for r in rows])
    return {
        "kl": mean_measure(per_prompt, seed, level),
        "kl_per_token": ratio_measure(per_prompt, tokens, seed, level),
    }


def entropy_measures(
    tokens: Mapping[str, Sequence[TokenStatistics]], alignment: Alignment, seed: int, level: float
) -> dict[str, Measure]:
    """Entropy per token of each policy in nats, at matched positions and with prompts weighted equally.

    Entropy falls or rises along an answer, so a policy that merely writes longer would look more or
    less diverse. At each prompt only the positions before a common horizon count: the smallest, over
    the policies, of the longest answer there. The mean over those tokens is that prompt's value.
    So a policy's number depends on which policies it stands beside. Policies without entropies, or
    prompts whose horizon is 0, have no value.
    """
    columns = {p: c for p, s in tokens.items() if (c := _column(s, "entropy")) is not None}
    if not columns:
        return {}
    horizons = [
        min(max(columns[p][j].size for j in alignment.rows[p][i]) for p in columns)
        for i in range(len(alignment.prompts))
    ]
    out = {}
    for policy, column in columns.items():
        values = np.full(len(horizons), np.nan)
        for i, (positions, horizon) in enumerate(zip(alignment.rows[policy], horizons)):
            here = np.concatenate([column[j][:horizon] for j in positions])
            if here.size:
                values[i] = here.mean()
        out[policy] = mean_measure(values, seed, level)
    return out
