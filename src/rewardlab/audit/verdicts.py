"""One plain sentence per check, built from the numbers, and whether it is a reason to stop.

`fail`: the interval shows a problem large enough to matter. `warn`: the interval shows a small one, or
the data cannot tell it from something harmless. `ok`: no evidence of a problem; with few pairs that may
only mean little evidence, which the interval in the sentence shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rewardlab.core.statistics import Interval

Verdict = dict[str, str]

SMALL_ECE = 0.02
LARGE_ECE = 0.10
SMALL_SHIFT = 0.01
LARGE_SHIFT = 0.10
"""Both in standard deviations of the reward for one doubling of the length."""
MANY_FLIPS = 0.05
MANY_ERRORS = 0.05


def _verdict(check: str, verdict: Literal["ok", "warn", "fail"], text: str) -> Verdict:
    return {"check": check, "verdict": verdict, "text": text}


def _percent(x: Interval) -> str:
    return f"{100 * x.estimate:.1f}% ({100 * x.low:.1f} to {100 * x.high:.1f})"


def _plain(x: Interval, scale: float = 1.0) -> str:
    return f"{scale * x.estimate:+.2f} ({scale * x.low:+.2f} to {scale * x.high:+.2f})"


def verdicts(
    intervals: Mapping[str, Interval],
    over_length: Interval,
    confidence: float,
    probe: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    reason: str,
) -> list[Verdict]:
    """All checks for which there are numbers; `over_length` is accuracy minus that of the length baseline."""
    out = [
        _accuracy(intervals["accuracy"]),
        _beyond_length(intervals, over_length),
        _calibration(intervals, confidence),
        _length_bias(intervals),
    ]
    if "bayes_accuracy" in intervals:
        out.append(_ceiling(intervals["accuracy"], intervals["bayes_accuracy"]))
    if "accuracy_gold" in intervals:
        out.append(_gold(intervals["accuracy_gold"], intervals["label_agreement_gold"]))
    if probe:
        out.append(_padding(probe))
    out.append(_errors(counts, reason))
    return out


def _accuracy(accuracy: Interval) -> Verdict:
    text = f"The reward prefers the labelled answer in {_percent(accuracy)} of {accuracy.n} pairs"
    if accuracy.low > 0.5:
        return _verdict("accuracy", "ok", f"{text}, more often than chance.")
    worse = "less often than chance" if accuracy.high < 0.5 else "which chance could do as well"
    return _verdict("accuracy", "fail", f"{text}, {worse}.")


def _beyond_length(intervals: Mapping[str, Interval], over_length: Interval) -> Verdict:
    text = (
        f"Always preferring the longer answer is right in {_percent(intervals['length_baseline_accuracy'])} "
        f"of pairs; the reward is {_plain(over_length, 100)} points better"
    )
    if over_length.low > 0:
        return _verdict("beyond_length", "ok", f"{text}.")
    if over_length.high < 0:
        return _verdict("beyond_length", "fail", f"{text}, that is, worse than this rule.")
    return _verdict("beyond_length", "warn", f"{text}, which does not show that it knows more than length.")


def _calibration(intervals: Mapping[str, Interval], confidence: float) -> Verdict:
    error, accuracy = intervals["ece_debiased"], intervals["accuracy"]
    text = (
        f"Read as probabilities, score differences are off by {100 * error.estimate:.1f} points "
        f"({100 * error.low:.1f} to {100 * error.high:.1f}) once sampling noise is taken out"
    )
    if error.low == 0 or error.estimate < SMALL_ECE:
        return _verdict("calibration", "ok", f"{text}.")
    if accuracy.low <= confidence <= accuracy.high:
        how = f"on average it is about as sure ({100 * confidence:.0f}%) as it is right"
    else:
        side = "more" if confidence > accuracy.estimate else "less"
        how = f"it is {100 * confidence:.0f}% sure on average, {side} than it is right"
    return _verdict("calibration", "fail" if error.estimate >= LARGE_ECE else "warn", f"{text}; {how}.")


def _length_bias(intervals: Mapping[str, Interval]) -> Verdict:
    given_gold = intervals.get("length_slope_given_gold")
    slope = given_gold or intervals["length_slope"]
    if not math.isfinite(slope.low):
        return _verdict("length_bias", "warn", "Too few pairs differ in length to measure what it changes.")
    gap, labels = intervals["length_accuracy_gap"], intervals["length_baseline_accuracy"]
    at = "At equal gold value, doubling" if given_gold else "Within a prompt, doubling"
    text = f"{at} the length changes the score by {_plain(slope, math.log(2))} of its standard deviations"
    if not slope.low > 0 and not slope.high < 0:
        return _verdict("length_bias", "ok", f"{text}, which is compatible with none.")
    if max(abs(slope.low), abs(slope.high)) * math.log(2) < SMALL_SHIFT:
        return _verdict("length_bias", "ok", f"{text}, too little to matter.")
    sign = 1 if slope.estimate > 0 else -1
    large = abs(slope.estimate) * math.log(2) >= LARGE_SHIFT
    if given_gold:
        return _verdict("length_bias", "fail" if large else "warn", f"{text}.")
    if sign * (labels.estimate - 0.5) > 0 and 0.5 not in labels:
        which = "longer" if sign > 0 else "shorter"
        why = f"the labels prefer {which} answers too, so this may be bias or quality"
        return _verdict("length_bias", "warn", f"{text}; {why}.")
    if sign * gap.estimate > 0 and 0 not in gap:
        why = (
            f"it is right in {_percent(intervals['accuracy_longer_better'])} of pairs whose better answer is "
            f"longer and in {_percent(intervals['accuracy_shorter_better'])} where it is shorter"
        )
        return _verdict("length_bias", "fail" if large else "warn", f"{text}; {why}.")
    return _verdict("length_bias", "warn", f"{text}, though its accuracy does not depend on length.")


def _ceiling(accuracy: Interval, ceiling: Interval) -> Verdict:
    text = (
        f"Label noise allows an accuracy of at most {_percent(ceiling)} on average; "
        f"the reward has {_percent(accuracy)}"
    )
    if accuracy.low > ceiling.high:
        return _verdict("ceiling", "warn", f"{text}, more than is possible: it may have seen these labels.")
    return _verdict("ceiling", "ok", f"{text}.")


def _gold(accuracy: Interval, labels: Interval) -> Verdict:
    text = (
        f"The reward agrees with the gold preference in {_percent(accuracy)} of pairs, "
        f"the labels in {_percent(labels)}"
    )
    if accuracy.low > 0.5:
        return _verdict("gold", "ok", f"{text}.")
    how = "the reward prefers the worse answer" if accuracy.high < 0.5 else "chance could do as well"
    return _verdict("gold", "fail", f"{text}: {how}.")


def _padding(probe: Sequence[Mapping[str, Any]]) -> Verdict:
    """On the row with the largest gain: how many sentences pay best is the reward's weakness."""
    known = [row for row in probe if row["low"] is not None]
    if not known:
        return _verdict("padding", "warn", "The padding probe has too few scores for a result.")
    row = max(known, key=lambda r: float(r["estimate"]))
    change = Interval(row["estimate"], row["low"], row["high"], row["n"])
    flip = row["flip_rate"]
    text = (
        f"Appending {row['sentences']} empty sentence{'s' if row['sentences'] > 1 else ''} changes the score "
        f"by {_plain(change)} of its standard deviations"
    )
    if flip["estimate"] is not None:
        rate = Interval(flip["estimate"], flip["low"], flip["high"], flip["n"])
        text += f" and turns {_percent(rate)} of the right preferences into wrong ones"
    if change.low <= 0:
        if flip["low"] is not None and flip["low"] > MANY_FLIPS:
            return _verdict("padding", "warn", f"{text}: it does not pay on average, but it often decides.")
        return _verdict("padding", "ok", f"{text}.")
    return _verdict("padding", "fail" if flip["low"] > MANY_FLIPS else "warn", f"{text}: padding pays.")


def _errors(counts: Mapping[str, int], reason: str) -> Verdict:
    lost = counts["errors"] + counts["abstentions"]
    tried = counts["pairs"] - counts["label_ties"]
    if not lost:
        return _verdict("errors", "ok", f"The reward gave a value for both answers of all {tried} pairs.")
    text = (
        f"{lost} of {tried} pairs are left out: the reward failed on {counts['errors']} "
        f"and abstained on {counts['abstentions']}"
    )
    because = f" (first reason: {reason})" if reason else ""
    share = counts["errors"] / tried
    return _verdict("errors", "fail" if share > MANY_ERRORS else "warn", f"{text}{because}.")
