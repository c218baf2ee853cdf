"""Accuracy on preference benchmarks: plain pairs, pairs in several styles, comparisons with ties."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewardlab.core.statistics import Interval, bounded_mean_interval, wilson
from rewardlab.core.statistics.interval import Floats
from rewardlab.core.statistics.logistic import Ints


def ordered(better: Floats, worse: Floats) -> Floats:
    """1 where the better answer scores higher, 1/2 at equal scores, else 0."""
    return (1 + np.sign(better - worse)) / 2


def style_matrix(chosen: Floats, rejected: Floats, *, level: float = 0.95) -> dict[str, Any]:
    """Accuracy of every style of the chosen answer against every style of the rejected one.

    chosen, rejected Float[N, S]: scores of S styles from plain to ornate. matrix[i][j] is the accuracy of
    style i right against style j wrong. easy (i > j), normal (i = j), hard (i < j): in hard the wrong
    answer is the more ornate, so a reward that pays for style fails there. Intervals are over prompts.
    (RM-Bench, Liu et al. 2024, arXiv 2410.16184.) A score that is nan takes its prompt out.
    """
    use = np.isfinite(chosen).all(1) & np.isfinite(rejected).all(1)
    right = (1 + np.sign(chosen[use][:, :, None] - rejected[use][:, None, :])) / 2  # [N, S, S]
    styles = range(right.shape[1])

    def mean(cells: list[tuple[int, int]]) -> dict[str, float | int | None]:
        per_prompt = np.mean([right[:, i, j] for i, j in cells], axis=0)
        return bounded_mean_interval(per_prompt, level=level).as_dict()

    every = [(i, j) for i in styles for j in styles]
    return {
        "matrix": [[mean([(i, j)]) for j in styles] for i in styles],
        "easy": mean([c for c in every if c[0] > c[1]]),
        "normal": mean([c for c in every if c[0] == c[1]]),
        "hard": mean([c for c in every if c[0] < c[1]]),
        "all": mean(every),
        "left_out": int((~use).sum()),
    }


def three_way_accuracy(
    difference: Floats, label: Floats, folds: Ints, *, level: float = 0.95
) -> dict[str, Any]:
    """Accuracy on comparisons labelled 1 (first better), -1 (second better) or 0 (tie).

    without_ties: on decided rows, equal scores counting 1/2. with_ties: a tie is predicted where
    |difference| <= threshold, and the threshold of each fold is the one that does best on all other folds,
    so no row helps to judge itself (the idea of tie calibration: Deutsch, Foster and Freitag 2023,
    arXiv 2305.14324). always_most: the accuracy of always giving the commonest label. threshold is the
    median.
    """
    decided = label != 0
    plain = (1 + np.sign(difference[decided]) * label[decided]) / 2
    right = np.zeros(len(label))
    thresholds = []
    for fold in np.unique(folds):
        inside = folds == fold
        threshold = _best_threshold(difference[~inside], label[~inside])
        thresholds.append(threshold)
        right[inside] = _said(difference[inside], threshold) == label[inside]
    most = max(int((label == v).sum()) for v in (-1, 0, 1))
    return {
        "without_ties": bounded_mean_interval(plain, level=level).as_dict(),
        "with_ties": _rate(right, level).as_dict(),
        "always_most": _rate(np.arange(len(label)) < most, level).as_dict(),
        "threshold": float(np.median(thresholds)),
        "ties": int((~decided).sum()),
    }


def _rate(right: Any, level: float) -> Interval:
    return wilson(int(np.sum(right)), len(right), level=level)


def _said(difference: Floats, threshold: float) -> Floats:
    return np.where(np.abs(difference) <= threshold, 0.0, np.sign(difference))


def _best_threshold(difference: Floats, label: Floats) -> float:
    """The threshold with the most right answers; the smallest of equals. -1 predicts no tie at all."""
    size = np.abs(difference)
    tries = np.concatenate([[-1.0], np.quantile(size, np.linspace(0, 1, 101))])
    right = [float((_said(difference, t) == label).mean()) for t in tries]
    return float(tries[int(np.argmax(right))])
