"""The filters page says what its figures say, and the study's learner learns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from rewardlab.core.types import Message, Pair
from rewardlab.records.atomic import sha256

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from filters_page import page  # noqa: E402
from hashed_pairs import difference_matrix, features, learner  # noqa: E402


def test_the_page_is_made_from_the_figures_beside_it() -> None:
    artefact = ROOT / "docs" / "filters.json"
    made = page(json.loads(artefact.read_text()), sha256(artefact))
    assert (ROOT / "docs" / "filters.md").read_text() == made, (
        "run `python benchmarks/filters.py docs --page`"
    )


def test_every_arm_has_every_seed() -> None:
    found = json.loads((ROOT / "docs" / "filters.json").read_text())
    settings = found["settings"]
    cells = {(r["seed"], r["flip"], r["penalty"]) for r in found["rows"]}
    assert len(cells) == len(found["rows"])
    assert len(cells) == len(settings["seeds"]) * len(settings["flips"]) * len(settings["penalties"])
    assert len({tuple(r["accuracy"]) for r in found["rows"]}) == 1
    for row in found["rows"]:
        assert row["flipped_among_kept"]["oracle"] == 0
        assert row["flipped_among_kept"]["none"] == pytest.approx(row["true_flip_rate"])


def pair(chosen: str, rejected: str) -> Pair:
    prompt = (Message("user", "How do I bake bread? Please cover time."),)
    return Pair(prompt, (Message("assistant", chosen),), (Message("assistant", rejected),))


def test_the_learner_learns_and_turns_round_with_the_pair() -> None:
    good, bad = "The time you need is one hour.", "It is good to stay calm."
    assert features("How do I bake bread?", good) != features("How do I grow herbs?", good)
    x = difference_matrix([pair(good, bad), pair(bad, good), pair(good, good)])
    assert abs(x[0] + x[1]).max() == 0
    assert x[2].count_nonzero() == 0
    margins = learner(sparse.csr_matrix(x), np.array([1.0, 1.0, 1.0]), 0.01)(np.array([0]))(np.arange(3))
    assert margins[0] > 0.5
    assert margins.tolist() == [margins[0], -margins[0], 0]
    turned = learner(sparse.csr_matrix(x), np.array([1.0, -1.0, 1.0]), 0.01)(np.array([0, 1]))(np.arange(3))
    assert turned[1] > 0.5
