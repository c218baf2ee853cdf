"""What must not matter: how the reward is called, how the text is encoded, in which order answers stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rewardlab.audit import edits
from rewardlab.audit.section import Floats, Light, Material, Measure, Section, effect, percent, worst
from rewardlab.audit.subject import JudgedSubject, ScoredSubject, Two
from rewardlab.core.statistics import Interval, newcombe, t_interval, wilson
from rewardlab.core.types import Rollout

FEW = 64
"""Answers that are asked again, one call each and in other orders."""
SAME, CLOSE = 1e-3, 0.05
"""Standard deviations: what rounding may do, and what is too much."""
SOME_FLIPS, MANY_FLIPS = 0.05, 0.15
"""Share of preferences that an invisible edit turns (lower limit): warn, fail."""
REMEDY = {
    "batch_size": "Pool at the last real token by length and pad on one side; compare in fp32.",
    "row_order": "Something in the reward depends on the rows beside an answer: score each alone.",
    "test_retest": "The reward is random: fix its seed, or average several calls and report their spread.",
    "whitespace": "Strip and collapse white space before scoring.",
    "unicode": "Normalise answers to NFC before scoring.",
    "template": "Fix one chat template for training, audit and use.",
    "position": "Judge both orders and average, as this audit does.",
    "identical": "Judge both orders and average; ask for a tie as an option.",
    "transitivity": "Fit Bradley-Terry scores to many comparisons instead of using single ones.",
    "self_preference": "Use a judge of another model family than the systems compared.",
}


def invariance(material: Material) -> Section:
    """Light, measures and advice of all that the kind of subject allows."""
    rows = np.random.default_rng(material.seed).permutation(material.sample)[: FEW // 2]
    pairs = [material.pair(int(i)) for i in rows]
    measures = []
    if isinstance(material.subject, ScoredSubject):
        measures += _calls(material.subject, [r for p in pairs for r in p], material)
    else:
        measures += _judge(material, material.subject)
    measures += [
        _text(material, "whitespace", "white space at the ends, doubled inside", _spaces),
        _text(material, "unicode", "Unicode NFC against NFD", edits.decomposed, edits.composed),
    ]
    measures += [_variant(material, name, other) for name, other in material.variants.items()]
    measures += _own(material)
    bad = [m for m in measures if m.light in ("warn", "fail")]
    worst_one = max(bad, key=lambda m: m.light == "fail", default=None)
    return Section(
        worst([m.light for m in measures]),
        f"Calls: largest change over {SAME:g} SD warns, over {CLOSE:g} SD fails. "
        "Invisible edits and templates: "
        f"preferences turned in more than {SOME_FLIPS:.0%} (lower limit) warn, in more than {MANY_FLIPS:.0%} "
        "fail. Judges: an interval of the preference for a position that leaves 0.45 to "
        "0.55 warns, 0.4 to 0.6 "
        "fails.",
        _sentence(measures, worst_one),
        tuple(dict.fromkeys(REMEDY[m.name.split(":")[0]] for m in bad)),
        tuple(measures),
    )


def _sentence(measures: list[Measure], found: Measure | None) -> str:
    judged = [m for m in measures if m.light != "none"]
    if found is None:
        return f"None of {len(judged)} changes that should not matter changes what it says."
    return f"It changes what it says with {found.title}: {found.note or percent(found.value)}."


def _calls(subject: ScoredSubject, rollouts: list[Rollout], material: Material) -> list[Measure]:
    """One call for all, one call each, another order, and the same call again."""
    together = subject.values(rollouts, fresh=True)
    alone = np.concatenate([subject.values([r], fresh=True) for r in rollouts])
    order = np.random.default_rng(material.seed).permutation(len(rollouts))
    shuffled = np.empty_like(together)
    shuffled[order] = subject.values([rollouts[i] for i in order], fresh=True)
    again = subject.values(rollouts, fresh=True)
    others = {
        "batch_size": ("batch size (alone or together)", alone),
        "row_order": ("order of the rows", shuffled),
        "test_retest": ("the same call again", again),
    }
    out = []
    for name, (title, values) in others.items():
        lost = np.isfinite(values) != np.isfinite(together)
        change = np.abs(values - together) / material.unit
        known = change[np.isfinite(change)]
        largest = float(known.max()) if known.size else 0.0
        light: Light = "fail" if largest > CLOSE or lost.any() else ("warn" if largest > SAME else "ok")
        note = f"largest change {largest:.2g} SD" + (f", {lost.sum()} values lost" if lost.any() else "")
        out.append(Measure(name, title, t_interval(known), "SD", light, 0.0, note=note))
    return out


def _spaces(text: str) -> str:
    return f"  {edits.spaced(text)}\n\n"


def _text(
    material: Material,
    name: str,
    title: str,
    edit: Callable[[str], str],
    base: Callable[[str], str] = lambda text: text,
) -> Measure:
    """Preferences turned when one answer of a pair is edited, among decided pairs that the edit changes."""
    rows, changed = [], []
    for i in material.sample:
        a, b = material.pair(int(i))
        if edit(a.text) != base(a.text):
            rows.append((replace(a, text=base(a.text)), b))
            changed.append((replace(a, text=edit(a.text)), b))
    before, after = material.subject.margins(rows), material.subject.margins(changed)
    return _flipped(name, title, before, after, material.level)


def _variant(material: Material, name: str, other: ScoredSubject) -> Measure:
    pairs: list[Two] = [material.pair(int(i)) for i in material.sample]
    before, after = material.subject.margins(pairs), other.margins(pairs)
    return _flipped(f"template:{name}", f"chat template {name}", before, after, material.level)


def _flipped(name: str, title: str, before: Floats, after: Floats, level: float) -> Measure:
    known = np.isfinite(before) & np.isfinite(after) & (before != 0)
    turned = known & (np.sign(after) != np.sign(before))
    share = wilson(int(turned.sum()), int(known.sum()), level=level)
    if share.n < 10:
        return Measure(name, title, share, "share", "none", 0.0, note="too few texts that it changes")
    light: Light = "fail" if share.low > MANY_FLIPS else ("warn" if share.low > SOME_FLIPS else "ok")
    return Measure(name, title, share, "share", light, 0.0, note=f"{percent(share)} of preferences turn")


def _judge(material: Material, subject: JudgedSubject) -> list[Measure]:
    """Position, identical answers, transitivity and test-retest of a judge."""
    pairs: list[Two] = [material.pair(int(i)) for i in material.sample]
    there = subject.first(pairs)
    back = subject.first([(b, a) for a, b in pairs])
    # The label decides which answer comes first, so only the mean over both orders shows the position.
    shown_first, _ = effect((there + back) / 2, material.level)
    twins, _ = effect(subject.first([(b, b) for _, b in pairs[:FEW]]), material.level)
    retest = np.abs(subject.first(pairs[:FEW], fresh=True) - there[:FEW])
    spread = t_interval(retest[np.isfinite(retest)], level=material.level)
    random: Light = "warn" if spread.estimate > CLOSE else "ok"
    note = f"mean change of the preference {spread.estimate:.2f}"
    return [
        _position("position", "preference for the answer shown first", shown_first),
        _position("identical", "two identical answers, first preferred", twins),
        Measure("test_retest", "the same question again", spread, "probability", random, 0.0, note=note),
        _triples(material, subject),
    ]


def _position(name: str, title: str, at: Interval) -> Measure:
    if at.n < 10:
        return Measure(name, title, at, "probability", "none", 0.5, note="too few comparisons")
    low, high = at.low, at.high
    light: Light = "fail" if low > 0.6 or high < 0.4 else ("warn" if low > 0.55 or high < 0.45 else "ok")
    return Measure(name, title, at, "probability", light, 0.5, note=f"{percent(at)}, where 50% is fair")


def _triples(material: Material, subject: JudgedSubject) -> Measure:
    """Share of answers a > b > c > a among decided triples: the two answers of a pair and a shortened one."""
    triples = []
    for i in material.sample:
        a, b = material.pair(int(i))
        parts = edits.sentences(a.text)
        c = replace(a, text=" ".join(parts[: len(parts) // 2]) or a.text[: len(a.text) // 2])
        triples.append((a, b, c))
    sides = [subject.margins([(t[x], t[y]) for t in triples]) for x, y in ((0, 1), (1, 2), (2, 0))]
    signs = np.sign(np.stack(sides, 1))
    decided = np.isfinite(signs).all(1) & (signs != 0).all(1)
    circular = decided & (np.abs(signs.sum(1)) == 3)
    share = wilson(int(circular.sum()), int(decided.sum()), level=material.level)
    light: Light = "fail" if share.low > MANY_FLIPS else ("warn" if share.low > SOME_FLIPS else "ok")
    note = f"{percent(share)} of triples go in a circle"
    return Measure(
        "transitivity",
        "intransitive triples",
        share,
        "share",
        light if share.n >= 10 else "none",
        0.0,
        note=note,
    )


def _own(material: Material) -> list[Measure]:
    """Errors in favour of its own system minus errors against it (Newcombe's interval)."""
    if not material.own_system:
        return []
    wrong: dict[bool, list[float]] = {True: [], False: []}
    for correct, pair in zip(material.scored.correct, material.scored.pairs):
        sides = [pair.meta.get(f"system_{side}") == material.own_system for side in ("chosen", "rejected")]
        if sides[0] != sides[1]:
            wrong[sides[1]].append(1 - float(correct))
    favour, against = wrong[True], wrong[False]
    at = newcombe(sum(favour), len(favour), sum(against), len(against), level=material.level)
    if min(len(favour), len(against)) < 10:
        return []
    light: Light = "fail" if at.low > 0.1 else ("warn" if at.low > 0 else "ok")
    note = f"{percent(at)} more errors in its favour than against it"
    return [Measure("self_preference", "preference for its own system", at, "share", light, 0.0, note=note)]
