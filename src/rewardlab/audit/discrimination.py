"""Does the reward prefer the better answer: overall, by subset, by style, among k answers, of systems?"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from rewardlab.audit.accuracy import bayes_accuracy, gold_accuracy, margin_deciles, rate
from rewardlab.audit.ranking import best_of_k, groups_of_best, rank_systems, style_matrix, subset_rates
from rewardlab.audit.section import Floats, Light, Material, Measure, Section, percent, worst
from rewardlab.core.statistics import Interval

ENOUGH = 30
"""A subset with fewer pairs gets no light."""
FEW = 0.05
"""A lower or upper limit that reaches this far past chance on the wrong side is a failure of a subset."""


def pairs_needed(accuracy: float, half_width: float, *, level: float = 0.95) -> int:
    """Pairs for an interval of +-half_width around a rate: z^2 p (1 - p) / h^2."""
    z = float(stats.norm.ppf(0.5 + level / 2))
    p = min(max(accuracy, 0.05), 0.95)
    return math.ceil(z * z * p * (1 - p) / half_width**2)


def discrimination(material: Material) -> Section:
    """Ties count half everywhere. Light, measures and advice."""
    scored, level = material.scored, material.level
    overall = rate(scored.correct, level=level)
    light: Light = "ok" if overall.low > 0.5 else "fail"
    measures = [Measure("accuracy", "accuracy against the labels", overall, "share", light, 0.5)]
    gold, _ = gold_accuracy(scored, level=level)
    if gold:
        at = gold["accuracy_gold"]
        good: Light = "ok" if at.low > 0.5 else "fail"
        measures.append(Measure("accuracy_gold", "accuracy against gold", at, "share", good, 0.5))
        labels = gold["label_agreement_gold"]
        measures.append(Measure("label_gold", "labels against gold", labels, "share", "none", 0.5))
    if (ceiling := bayes_accuracy(scored, seed=material.seed, level=level)) is not None:
        over: Light = "warn" if overall.low > ceiling.high else "none"
        measures.append(Measure("ceiling", "ceiling: noise of the labels", ceiling, "share", over, 0.5))
    measures += _subsets(material) + _styles(material) + _best_of_k(material) + _systems(material)
    needed = pairs_needed(overall.estimate, material.half_width, level=level)
    weak = [m for m in measures if m.group == "subset" and m.light in ("warn", "fail")]
    sentence = f"It prefers the labelled answer in {percent(overall)} of {overall.n} pairs"
    ties = int((scored.margin == 0).sum())
    sentence += f", {ties} ties counted half" if ties else ""
    if overall.low <= 0.5:
        sentence += ", not shown to be better than chance" if overall.high >= 0.5 else ", worse than chance"
    if gold and gold["accuracy_gold"].low <= 0.5:
        sentence += f"; it agrees with gold in only {percent(gold['accuracy_gold'])}"
    if weak:
        sentence += f"; it is at or under chance in {', '.join(m.title for m in weak[:3])}"
    return Section(
        worst([m.light for m in measures]),
        "fail: the interval of the accuracy (against labels or gold) reaches 0.5, or a "
        "subset lies wholly under "
        f"it. warn: a subset of at least {ENOUGH} pairs is at or under 0.5, the accuracy is above what label "
        "noise allows, or the order of systems is not better than none.",
        f"{sentence}.",
        _advice(overall, needed, measures, material),
        tuple(measures),
        {"margin_deciles": margin_deciles(scored, level=level)},
        {"pairs_needed": needed, "half_width": material.half_width, "ties": ties, "tie_policy": "half"},
    )


def _advice(overall: Interval, needed: int, measures: list[Measure], material: Material) -> tuple[str, ...]:
    out = []
    if overall.high < 0.5:
        out.append("Check the sign of the reward and the order of chosen and rejected before anything else.")
    elif overall.low <= 0.5:
        out.append("Do not train on it: add data or a criterion that separates these pairs.")
    elif any(m.name == "accuracy_gold" and m.light == "fail" for m in measures):
        out.append("Do not train on it: it learnt what the labels like, not what is good: see the biases.")
    for m in measures:
        if m.group != "subset" or m.light not in ("warn", "fail"):
            continue
        out.append(f"Collect pairs for {m.title}, or give that part of the data another reward.")
    if needed > overall.n:
        out.append(
            f"For an interval of ±{100 * material.half_width:g} points collect {needed} pairs "
            f"({overall.n} now)."
        )
    return tuple(out)


def _subsets(material: Material) -> list[Measure]:
    names = [str(p.meta.get(material.subset_field, "")) for p in material.scored.pairs]
    if len(set(names)) < 2:
        return []
    # A family of subsets: the interval that a light reads is widened by Bonferroni's method.
    family = 1 - (1 - material.level) / len(set(names))
    rates, mean = subset_rates(material.scored.correct, names, level=material.level)
    wide, _ = subset_rates(material.scored.correct, names, level=family)
    out = [Measure("subset_mean", "mean of the subsets", mean, "share", "none", 0.5)]
    for name, at in sorted(rates.items(), key=lambda kv: kv[1].estimate):
        light: Light = "none"
        if at.n >= ENOUGH:
            light = "fail" if wide[name].high < 0.5 else ("warn" if at.estimate <= 0.5 else "ok")
        title = name or f"no {material.subset_field}"
        out.append(Measure(f"subset:{name}", title, at, "share", light, 0.5, group="subset"))
    return out


def _styles(material: Material) -> list[Measure]:
    where, (chosen, rejected) = material.scored.meta("style_chosen", "style_rejected")
    if not where.size:
        return []
    correct: Floats = material.scored.correct[where]
    _, means = style_matrix(correct, chosen.astype(np.intp), rejected.astype(np.intp), level=material.level)
    titles = {"easy": "easy: chosen in the richer style", "normal": "normal: one style"}
    out = []
    for name, at in means.items():
        light: Light = "fail" if at.high < 0.5 else ("warn" if at.low <= 0.5 and name == "hard" else "ok")
        title = titles.get(name, "hard: rejected in the richer style")
        out.append(Measure(f"style_{name}", title, at, "share", light, 0.5))
    return out


def _best_of_k(material: Material) -> list[Measure]:
    """Prompts whose chosen answer stands against several rejected ones."""
    if material.subject.pairwise:
        return []
    rows = groups_of_best(material.scored.pairs)
    if len(rows) < 10:
        return []
    top = [float(material.scored.better[r[0]]) for r in rows]
    at = best_of_k(top, [material.scored.worse[r] for r in rows], level=material.level)
    chance = float(np.mean([1 / (len(r) + 1) for r in rows]))
    light: Light = "ok" if at.low > chance else "fail"
    return [Measure("best_of_k", "best of k answers", at, "share", light, chance)]


def _systems(material: Material) -> list[Measure]:
    """Systems by `system_chosen` and `system_rejected` in the meta, against the leaderboard."""
    if not material.leaderboard or material.subject.pairwise:
        return []
    scores: dict[str, list[float]] = {}
    for i, pair in enumerate(material.scored.pairs):
        for side, value in (("chosen", material.scored.better[i]), ("rejected", material.scored.worse[i])):
            if (system := pair.meta.get(f"system_{side}")) is not None:
                scores.setdefault(str(system), []).append(float(value))
    found = rank_systems(scores, material.leaderboard, seed=material.seed, level=material.level)
    out = []
    for name, at in (found or {}).items():
        light: Light = "ok" if at.low > 0 else "warn"
        out.append(Measure(name, f"order of systems ({name})", at, "correlation", light, 0.0))
    return out
