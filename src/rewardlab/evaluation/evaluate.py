"""Policies side by side on the same prompts, with paired intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardlab.core.errors import UserError
from rewardlab.core.types import Prompt, Rollout, Score
from rewardlab.evaluation.alignment import Alignment, align
from rewardlab.evaluation.comparison import comparison_table
from rewardlab.evaluation.diversity import distinct_measure, equal_size_corpora
from rewardlab.evaluation.measure import (
    Floats,
    Measure,
    bounded_measure,
    in_unit_range,
    mean_measure,
    within_prompts,
)
from rewardlab.evaluation.tokens import TokenStatistics, check_tokens, entropy_measures, kl_measures

Measures = dict[str, dict[str, Measure]]
"""policy -> metric -> measure."""


def evaluate(
    rollouts: Mapping[str, Sequence[Rollout]],
    *,
    seed: int,
    scores: Mapping[str, Mapping[str, Sequence[Score]]] | None = None,
    baseline: str | None = None,
    judge: str | None = None,
    tokens: Mapping[str, Sequence[TokenStatistics]] | None = None,
    behaviour: Callable[[str, Prompt], Mapping[str, float]] | None = None,
    format_valid: Callable[[Rollout], bool] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Measure every policy on every metric there is data for, and each against the baseline.

    rollouts: policy -> one or more rollouts per prompt, matched by `Prompt.id`.
    scores: reward name -> policy -> one score per rollout. Abstentions and errors are left out of the
        means and counted; they are never 0.
    baseline: a policy; the first one if not given.
    judge: the reward that decides wins against the baseline; all cross pairs of a prompt's samples
        count, ties half.
    tokens: policy -> one TokenStatistics per rollout, for `kl`, `kl_per_token` and `entropy`.
    behaviour: named numbers of one answer; each becomes a metric of that name, a flag `has_x` the
        metric `x_rate`.

    Returns {"policies": {policy: {metric: interval}}, "comparisons": [{"policy", "baseline", "metric",
    "estimate", "low", "high", "p", "p_holm", "n"}], "counts": {policy: {reward: {"ok", "abstain",
    "error"}}}}, all of it JSON. Values are averaged within a prompt first; n is a number of prompts.
    In `comparisons` the win rate stands as win rate - 1/2.
    """
    scores = scores or {}
    alignment = align(rollouts)
    baseline = next(iter(rollouts)) if baseline is None else baseline
    if baseline not in rollouts:
        raise UserError(
            f"The baseline {baseline!r} is not among the policies.", f"Choose one of {list(rollouts)}."
        )
    if judge is not None and judge not in scores:
        raise UserError(f"The judge {judge!r} has no scores.", f"Choose one of {list(scores)}.")
    _check_lengths(rollouts, scores)
    win_rate = f"win_rate_vs_{baseline}"
    tables: list[Measures] = [_reward_measures(scores, alignment, seed, level)]
    if judge is not None:
        tables.append(_win_measures(scores[judge], alignment, baseline, win_rate, level))
    if tokens is not None:
        tables.append(_token_measures(rollouts, tokens, alignment, seed, level))
    tables.append(_length_measures(rollouts, alignment, seed, level))
    if behaviour is not None:
        tables.append(_behaviour_measures(rollouts, behaviour, alignment, seed, level))
    tables.append(_diversity_measures(rollouts, alignment, level))
    if format_valid is not None:
        valid = {p: [float(format_valid(r)) for r in rows] for p, rows in rollouts.items()}
        tables.append(_rate_measures("format_valid", valid, alignment, level))
    for metric, reason in (("stop_rate", "stop"), ("length_stop_rate", "length")):
        stops = {
            p: [np.nan if r.sequence.stop == "data" else float(r.sequence.stop == reason) for r in rows]
            for p, rows in rollouts.items()
        }
        tables.append(_rate_measures(metric, stops, alignment, level))
    measures = _merge(tables, rollouts)
    return {
        "policies": {
            p: {metric: m.interval.as_dict() for metric, m in metrics.items()}
            for p, metrics in measures.items()
        },
        "comparisons": comparison_table(measures, baseline, win_rate, level),
        "counts": {p: {name: _counts(by_policy[p]) for name, by_policy in scores.items()} for p in rollouts},
    }


def _check_lengths(
    rollouts: Mapping[str, Sequence[Rollout]], scores: Mapping[str, Mapping[str, Sequence[Score]]]
) -> None:
    for name, by_policy in scores.items():
        for policy, rows in rollouts.items():
            given = len(by_policy.get(policy, ()))
            if given != len(rows):
                raise UserError(
                    f"Reward {name} has {given} scores for the {len(rows)} rollouts of policy {policy}.",
                    "Score every rollout; use Score.abstain or Score.error where there is no value.",
                )


def _merge(tables: Sequence[Measures], policies: Mapping[str, object]) -> Measures:
    """All metrics of each policy; two sources of one name (a reward called `length`) are refused."""
    out: Measures = {p: {} for p in policies}
    for table in tables:
        for policy, metrics in table.items():
            for metric, measure in metrics.items():
                if metric in out[policy]:
                    raise UserError(
                        f"Two metrics are called {metric!r}.", "Rename the reward or the behaviour."
                    )
                out[policy][metric] = measure
    return out


def _counts(scores: Sequence[Score]) -> dict[str, int]:
    seen = Counter(s.status for s in scores)
    return {"ok": seen["ok"], "abstain": seen["abstain"], "error": seen["error"]}


def _values(scores: Sequence[Score]) -> list[float]:
    return [np.nan if s.value is None else s.value for s in scores]


def _reward_measures(
    scores: Mapping[str, Mapping[str, Sequence[Score]]], alignment: Alignment, seed: int, level: float
) -> Measures:
    return {
        policy: {
            name: mean_measure(within_prompts(_values(by_policy[policy]), rows), seed, level)
            for name, by_policy in scores.items()
        }
        for policy, rows in alignment.rows.items()
    }


def _win_measures(
    scores: Mapping[str, Sequence[Score]], alignment: Alignment, baseline: str, name: str, level: float
) -> Measures:
    """Share of cross pairs in which the policy's answer scores higher, per prompt; ties half."""
    values = {p: np.array(_values(scores[p])) for p in alignment.rows}
    out: Measures = {}
    for policy, rows in alignment.rows.items():
        if policy == baseline:
            continue
        wins = np.full(len(rows), np.nan)
        for i, (mine, theirs) in enumerate(zip(rows, alignment.rows[baseline])):
            a, b = values[policy][list(mine)], values[baseline][list(theirs)]
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            if a.size and b.size:
                wins[i] = (1 + np.sign(a[:, None] - b[None, :])).mean() / 2
        out[policy] = {name: bounded_measure(wins, level)}
    return out


def _token_measures(
    rollouts: Mapping[str, Sequence[Rollout]],
    tokens: Mapping[str, Sequence[TokenStatistics]],
    alignment: Alignment,
    seed: int,
    level: float,
) -> Measures:
    unknown = [p for p in tokens if p not in rollouts]
    if unknown:
        raise UserError(
            f"Token statistics for unknown policies {unknown}.", f"The policies are {list(rollouts)}."
        )
    out: Measures = {}
    for policy, statistics in tokens.items():
        check_tokens(policy, rollouts[policy], statistics)
        out[policy] = kl_measures(statistics, alignment.rows[policy], seed, level)
    for policy, measure in entropy_measures(tokens, alignment, seed, level).items():
        out[policy]["entropy"] = measure
    return out


def _length_measures(
    rollouts: Mapping[str, Sequence[Rollout]], alignment: Alignment, seed: int, level: float
) -> Measures:
    out: Measures = {}
    for policy, rows in rollouts.items():
        lengths = [float(r.sequence.actions) for r in rows]
        out[policy] = {"length": mean_measure(within_prompts(lengths, alignment.rows[policy]), seed, level)}
    return out


def _behaviour_measures(
    rollouts: Mapping[str, Sequence[Rollout]],
    behaviour: Callable[[str, Prompt], Mapping[str, float]],
    alignment: Alignment,
    seed: int,
    level: float,
) -> Measures:
    """Behaviours whose values all lie in [0, 1] are treated as rates; a missing name is left out there."""
    found = {p: [behaviour(r.text, r.prompt) for r in rows] for p, rows in rollouts.items()}
    names = dict.fromkeys(name for rows in found.values() for row in rows for name in row)
    out: Measures = {p: {} for p in rollouts}
    for name in names:
        per_prompt: dict[str, Floats] = {
            p: within_prompts([float(row.get(name, np.nan)) for row in rows], alignment.rows[p])
            for p, rows in found.items()
        }
        rate = in_unit_range(per_prompt.values())
        metric = f"{name.removeprefix('has_')}_rate" if name.startswith("has_") else name
        for policy, values in per_prompt.items():
            out[policy][metric] = (
                bounded_measure(values, level) if rate else mean_measure(values, seed, level)
            )
    return out


def _diversity_measures(
    rollouts: Mapping[str, Sequence[Rollout]], alignment: Alignment, level: float
) -> Measures:
    out: Measures = {p: {} for p in rollouts}
    for policy, corpus in equal_size_corpora(rollouts, alignment).items():
        for n in (1, 2):
            measure = distinct_measure(corpus, n, level)
            if measure is not None:
                out[policy][f"distinct_{n}"] = measure
    return out


def _rate_measures(
    name: str, values: Mapping[str, Sequence[float]], alignment: Alignment, level: float
) -> Measures:
    """A yes/no answer per rollout; policies without any (given data has no stop reason) have no rate."""
    out: Measures = {}
    for policy, flat in values.items():
        per_prompt = within_prompts(flat, alignment.rows[policy])
        if np.isfinite(per_prompt).any():
            out[policy] = {name: bounded_measure(per_prompt, level)}
    return out
