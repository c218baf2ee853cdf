"""Calibration beyond one number: adaptive bins, parts of the Brier score, temperature, the surest tenth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from rewardlab.audit.calibration import Forecast, debiased_ece, forecast
from rewardlab.audit.section import Floats, Light, Material, Measure, Section
from rewardlab.core.statistics import Interval, bounded_mean_interval

HOTTEST = 1e3
"""Times the spread of the margins: the bound of the fitted temperature."""
SMALL, LARGE = 0.02, 0.10
"""Calibration errors: below the first no light; from the second, after a temperature, a failure. Ranking does
not need calibration, so what a temperature repairs to a few points is a warning at most."""


def sweep_ece(f: Forecast) -> tuple[float, int]:
    """Calibration error with as many equal-mass bins as keep the observed rates rising, and their number.

    Monotonic sweep of Roelofs et al. 2020 (arXiv 2012.08668): the bins adapt to the data, so their number
    is not a setting.
    """
    order = np.argsort(f.predicted, kind="stable")
    predicted, outcome = f.predicted[order], f.outcome[order]
    best, used = abs(float(predicted.mean() - outcome.mean())), 1
    for bins in range(2, min(100, order.size) + 1):
        parts = np.array_split(np.arange(order.size), bins)
        rates = np.array([outcome[p].mean() for p in parts])
        if (np.diff(rates) < 0).any():
            break
        gaps = np.array([abs(float((outcome[p] - predicted[p]).mean())) for p in parts])
        best, used = float(np.array([p.size for p in parts]) @ gaps / order.size), bins
    return best, used


def brier_parts(f: Forecast) -> dict[str, float]:
    """Murphy's split (1973): Brier = reliability - resolution + uncertainty + what is lost within bins.

    With bins b of mean prediction p_b and rate o_b: reliability = sum w_b (p_b - o_b)^2,
    resolution = sum w_b (o_b - o)^2, uncertainty = o (1 - o). `within` is the remainder.
    """
    n, base = f.outcome.size, float(f.outcome.mean())
    weight = np.array([b.size / n for b in f.bins])
    predicted = np.array([f.predicted[b].mean() for b in f.bins])
    observed = np.array([f.outcome[b].mean() for b in f.bins])
    reliability = float(weight @ (predicted - observed) ** 2)
    resolution = float(weight @ (observed - base) ** 2)
    uncertainty = base * (1 - base)
    total = float(((f.predicted - f.outcome) ** 2).mean())
    within = total - (reliability - resolution + uncertainty)
    return {
        "brier": total,
        "reliability": reliability,
        "resolution": resolution,
        "uncertainty": uncertainty,
        "within": within,
    }


def temperature(margin: Floats, label: Floats) -> float:
    """T > 0 that minimises the mean log loss of sigmoid(margin / T) against the labels, within 1/1000 to 1000
    times the root mean square of the margins; 1 where all margins are 0.
    """
    scale = float(np.sqrt(np.mean(margin**2)))
    if scale == 0:
        return 1.0

    def loss(log_t: float) -> float:
        z = margin / np.exp(log_t)
        return float((label * np.logaddexp(0, -z) + (1 - label) * np.logaddexp(0, z)).mean())

    found = optimize.minimize_scalar(
        loss, bounds=(np.log(scale / HOTTEST), np.log(scale * HOTTEST)), method="bounded"
    )
    return float(np.exp(found.x))


def cross_fitted(margin: Floats, label: Floats, *, seed: int) -> tuple[Floats, tuple[float, float]]:
    """Each half of the margins over the temperature fitted on the other half, and both temperatures."""
    half: NDArray[np.intp] = np.random.default_rng(seed).permutation(margin.size)
    first, second = half[: margin.size // 2], half[margin.size // 2 :]
    out = np.empty_like(margin)
    fitted = []
    for train, test in ((first, second), (second, first)):
        t = temperature(margin[train], label[train])
        out[test] = margin[test] / t
        fitted.append(t)
    return out, (fitted[0], fitted[1])


def top_decile(f: Forecast, *, level: float = 0.95) -> Interval:
    """Claimed minus observed accuracy over the surest tenth of the pairs; above 0 is over-confidence."""
    sure = np.maximum(f.predicted, 1 - f.predicted)
    right = np.where(f.predicted >= 0.5, f.outcome, 1 - f.outcome)
    top = np.argsort(-sure, kind="stable")[: max(1, sure.size // 10)]
    claimed = float(sure[top].mean())
    hit = bounded_mean_interval(right[top], level=level)
    return Interval(claimed - hit.estimate, claimed - hit.high, claimed - hit.low, hit.n, level)


def calibration(material: Material) -> Section:
    """Can score differences be read as probabilities, and would a temperature repair them?"""
    margin, seed, level = material.scored.margin, material.seed, material.level
    label = np.array([p.label for p in material.scored.pairs])
    before = forecast(margin, label, seed=seed)
    cooled, temperatures = cross_fitted(margin, label, seed=seed)
    after = forecast(cooled, label, seed=seed)
    error, _ = debiased_ece(before, seed=seed, level=level)
    repaired, _ = debiased_ece(after, seed=seed, level=level)
    sweep, bins = sweep_ece(before)
    parts = brier_parts(before)
    surest = top_decile(before, level=level)
    at = float(np.sqrt(temperatures[0] * temperatures[1]))
    useless = max(temperatures) > 0.9 * HOTTEST * float(np.sqrt(np.mean(margin**2))) > 0
    light = _light(error, repaired) if not useless else "fail"
    measures = [
        Measure("ece_debiased", "calibration error", error, "probability", light, 0.0),
        Measure("ece_after_temperature", "after a temperature", repaired, "probability", "none", 0.0),
        Measure("top_decile", "over-confidence of the surest tenth", surest, "probability", "none", 0.0),
        *_points(parts, sweep, at, margin.size),
    ]
    advice = []
    if useless:
        advice.append(
            "The best temperature is infinite: the order is no better than chance, repair that first."
        )
    elif light != "ok":
        advice.append(
            f"Divide the scores by {at:.3g} (fitted on one half, judged on the other: error "
            f"{100 * error.estimate:.1f} to {100 * repaired.estimate:.1f} points)."
        )
        if light == "fail":
            advice.append(
                "A temperature is not enough: calibrate with a monotone map, or do not use margins."
            )
    wrong = ", over-confident in its surest tenth" if surest.low > 0 else ""
    sentence = (
        f"Read as probabilities, score differences are off by {100 * error.estimate:.1f} points "
        f"({100 * error.low:.1f} to {100 * error.high:.1f}){wrong}; a temperature of {at:.3g} would leave "
        f"{100 * repaired.estimate:.1f}."
    )
    return Section(
        light,
        f"ok: the interval of the debiased error reaches 0, or it is under {SMALL}. warn: a temperature "
        f"brings it to 0 or under {LARGE}. fail: it does not, or only an infinite one does.",
        sentence,
        tuple(advice),
        tuple(measures),
        facts={"temperatures": list(temperatures), "brier": parts, "sweep_bins": bins},
    )


def _light(error: Interval, repaired: Interval) -> Light:
    if error.low == 0 or error.estimate < SMALL:
        return "ok"
    return "warn" if repaired.low == 0 or repaired.estimate < LARGE else "fail"


def _points(parts: dict[str, float], sweep: float, fitted: float, n: int) -> Sequence[Measure]:
    """Numbers without an interval."""
    named = {
        "temperature": ("temperature fitted", fitted),
        "ece_sweep": ("calibration error, adaptive bins", sweep),
        "brier_reliability": ("Brier: reliability (0 is best)", parts["reliability"]),
        "brier_resolution": ("Brier: resolution (more is better)", parts["resolution"]),
        "brier_uncertainty": ("Brier: uncertainty", parts["uncertainty"]),
    }
    bare = Interval(0.0, -np.inf, np.inf, n)
    return [
        Measure(name, title, replace(bare, estimate=value), "", "none")
        for name, (title, value) in named.items()
    ]
