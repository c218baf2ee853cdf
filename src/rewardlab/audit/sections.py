"""The full audit: `audit_reward`'s card, the sections on top of it, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rewardlab.audit.bias import bias
from rewardlab.audit.confidence import calibration
from rewardlab.audit.discrimination import discrimination
from rewardlab.audit.edits import FILLER
from rewardlab.audit.exploitability import exploitability
from rewardlab.audit.invariance import invariance
from rewardlab.audit.report import card_of, scored_judgements
from rewardlab.audit.scoring import score_pairs
from rewardlab.audit.section import ORDER, Material, Section, SectionOf, worst
from rewardlab.audit.subject import JudgedSubject, ScoredSubject
from rewardlab.core.errors import UserError
from rewardlab.core.types import Pair

SECTIONS: dict[str, SectionOf] = {
    "discrimination": discrimination,
    "calibration": calibration,
    "bias": bias,
    "invariance": invariance,
    "exploitability": exploitability,
}
"""Every section by name, in the order of the page."""
WEIGHT = ("exploitability", "discrimination", "bias", "invariance", "calibration")
"""Which section speaks first among equal lights: what loses a training run comes first."""


def chosen_sections(only: Iterable[str] = (), skip: Iterable[str] = ()) -> dict[str, SectionOf]:
    """The sections to run; an unknown name is a UserError."""
    wanted, unwanted = list(only), list(skip)
    for name in (*wanted, *unwanted):
        if name not in SECTIONS:
            raise UserError(f"the audit has no section {name!r}.", f"Sections: {', '.join(SECTIONS)}.")
    return {n: f for n, f in SECTIONS.items() if (not wanted or n in wanted) and n not in unwanted}


def full_audit(
    subject: ScoredSubject | JudgedSubject,
    pairs: Sequence[Pair],
    *,
    seed: int,
    sections: Mapping[str, SectionOf] | None = None,
    probe_pairs: int = 500,
    padding: Sequence[str] = FILLER,
    level: float = 0.95,
    tell: Callable[[str], None] = lambda name: None,
    **more: Any,
) -> dict[str, Any]:
    """The card of `audit_reward` with "sections" and "verdict" added, as a JSON-able dictionary.

    probe_pairs: at most so many pairs, a seeded sample, are edited by probes. sections: name -> function of
    `Material`; those of `SECTIONS` unless given. `more` are further fields of `Material`. `tell` hears the
    name of each section before it runs. No pair that can be scored is a UserError.
    """
    if isinstance(subject, ScoredSubject):
        scored = score_pairs(subject.scores, pairs)
    else:
        scored = scored_judgements(subject, pairs)
    drawn = np.random.default_rng(seed).permutation(len(scored.pairs))[:probe_pairs]
    sample = np.sort(drawn).astype(np.intp)
    probe = subject.scores if isinstance(subject, ScoredSubject) else None
    card = card_of(scored, probe, seed=seed, padding=padding, max_padded_pairs=probe_pairs, level=level)
    material = Material(subject, scored, sample, card, seed, level, **more)
    found: dict[str, Section] = {}
    for name, section in (SECTIONS if sections is None else sections).items():
        tell(name)
        run = partial(section, padding=padding) if section is bias else section
        found[name] = run(material)
    # What the card's own checks do not say yet.
    added = [
        {"check": name, "verdict": s.light, "text": s.sentence}
        for name, s in found.items()
        if name not in ("discrimination", "calibration") and s.light != "none"
    ]
    return {
        **card,
        "verdicts": [*card["verdicts"], *added],
        "counts": {**card["counts"], "calls": subject.cache.calls},
        "sections": {name: s.as_dict() for name, s in found.items()},
        "verdict": verdict(found),
    }


def verdict(found: Mapping[str, Section]) -> dict[str, Any]:
    """The worst light, the three sentences that matter most, and the advice in that order."""
    names = sorted(found, key=lambda n: (-ORDER[found[n].light], WEIGHT.index(n) if n in WEIGHT else 99))
    overall = worst([s.light for s in found.values()])
    advice = dict.fromkeys(a for n in names if found[n].light in ("warn", "fail") for a in found[n].advice)
    words = {
        "fail": "Do not train on this reward as it is.",
        "warn": "Usable with care: read the warnings first.",
        "ok": "No section found a reason not to train on it.",
        "none": "Nothing was measured that a rule could judge.",
    }
    return {
        "light": overall,
        "sentence": words[overall],
        "sentences": [{"section": n, "text": found[n].sentence} for n in names[:3]],
        "advice": list(advice),
    }
