"""The audit of a reward on preference pairs, as one JSON-able dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardlab.audit.accuracy import against_chance, bayes_accuracy, gold_accuracy, margin_deciles, rate
from rewardlab.audit.calibration import brier, debiased_ece, ece, forecast, reliability
from rewardlab.audit.edits import FILLER
from rewardlab.audit.length import (
    LengthOf,
    accuracy_by_length,
    characters,
    length_slopes,
    log_lengths,
    longer_is_better,
)
from rewardlab.audit.padding import padding_probe
from rewardlab.audit.scoring import Fill, Scored, Scorer, score_pairs
from rewardlab.audit.subject import JudgedSubject
from rewardlab.audit.verdicts import verdicts
from rewardlab.core.statistics import Interval, paired_difference
from rewardlab.core.types import Pair, Rollout, Score


def audit_reward(
    score: Scorer,
    pairs: Sequence[Pair],
    *,
    seed: int,
    fill: Fill | None = None,
    length_of: LengthOf = characters,
    padding: Sequence[str] = FILLER,
    max_padded_pairs: int | None = None,
    bins: int = 10,
    level: float = 0.95,
) -> dict[str, Any]:
    """Report card of `score` on preference pairs, which should be held out from its training.

    score: rollouts -> one Score each. Pairs in which it fails or abstains on an answer are excluded and
        counted. The reward is called once, and once more per number of padding sentences.
    pairs: labels above 1/2 count as hard in accuracies and as they are in calibration; below 1/2 the
        answers are swapped; 1/2 is excluded and counted. Equal scores count half.
        `meta` may hold gold_chosen, gold_rejected (accuracy_gold, label_agreement_gold) and p_chosen
        (bayes_accuracy); those entries are absent otherwise.
    fill: puts token ids into a rollout made from text. length_of: characters unless given.

    Returns intervals under "accuracy", "ece", "ece_debiased", "brier", "length_slope" and so on,
    "padding_probe", "tests" (p-values), "curves", "counts" and "verdicts". No pair that can be scored is
    a UserError.
    """
    return card_of(
        score_pairs(score, pairs, fill),
        score,
        seed=seed,
        fill=fill,
        length_of=length_of,
        padding=padding,
        max_padded_pairs=max_padded_pairs,
        bins=bins,
        level=level,
    )


def scored_judgements(subject: JudgedSubject, pairs: Sequence[Pair]) -> Scored:
    """A judge's margins as scores: half of the margin on each side, so that differences are the margins."""

    def halves(rollouts: Sequence[Rollout]) -> list[Score]:
        margins = subject.margins(list(zip(rollouts[0::2], rollouts[1::2])))
        reason = f"the judge {subject.name} gave no verdict"
        return [
            Score(sign * m / 2) if np.isfinite(m) else Score.abstain(reason)
            for m in margins
            for sign in (1, -1)
        ]

    return score_pairs(halves, pairs)


def card_of(
    scored: Scored,
    score: Scorer | None,
    *,
    seed: int,
    fill: Fill | None = None,
    length_of: LengthOf = characters,
    padding: Sequence[str] = FILLER,
    max_padded_pairs: int | None = None,
    bins: int = 10,
    level: float = 0.95,
) -> dict[str, Any]:
    """`audit_reward` on pairs that are scored already; a judge has no `score` and so no padding probe."""
    label = np.array([p.label for p in scored.pairs])
    claims = forecast(scored.margin, label, seed=seed, bins=bins)
    calibration, calibrated_p = debiased_ece(claims, seed=seed, level=level)
    logs = log_lengths(scored, length_of)
    by_length = longer_is_better(logs)
    gold, gold_ties = gold_accuracy(scored, level=level)
    ceiling = bayes_accuracy(scored, seed=seed, level=level)
    intervals: dict[str, Interval] = {
        "accuracy": rate(scored.correct, level=level),
        **gold,
        **({} if ceiling is None else {"bayes_accuracy": ceiling}),
        "ece": ece(claims, seed=seed, level=level),
        "ece_debiased": calibration,
        "brier": brier(claims, seed=seed, level=level),
        **length_slopes(scored, logs, seed=seed, level=level),
        "length_baseline_accuracy": rate(by_length, level=level),
        **accuracy_by_length(scored, by_length, level=level),
    }
    probe = []
    if score is not None:
        probe = padding_probe(
            score, scored, sentences=padding, fill=fill, max_pairs=max_padded_pairs, seed=seed, level=level
        )
    else:
        intervals.pop("length_slope_marginal")  # it compares answers to different prompts
    over_length = paired_difference(scored.correct, by_length, level=level)
    confidence = float(np.maximum(claims.predicted, 1 - claims.predicted).mean())
    counts = {**scored.counts, "gold_ties": gold_ties, "equal_lengths": int((by_length == 0.5).sum())}
    return {
        **{name: interval.as_dict() for name, interval in intervals.items()},
        "padding_probe": probe,
        "tests": {
            "accuracy_vs_chance": {"p": against_chance(scored.correct)},
            "accuracy_vs_length": over_length.as_dict(),
            "perfectly_calibrated": {"p": calibrated_p},
        },
        "curves": {
            "reliability": reliability(claims, level=level),
            "margin_deciles": margin_deciles(scored, level=level),
        },
        "counts": counts,
        "verdicts": verdicts(intervals, over_length.interval, confidence, probe, counts, scored.reason),
    }
