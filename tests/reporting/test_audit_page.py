"""The audit's page: what a reader finds on it, and that it asks nothing of a network."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

import numpy as np
import pytest

from rewardlab.audit import ScoredSubject, full_audit
from rewardlab.core.types import Message, Pair, Rollout, Score
from rewardlab.reporting.audit_page import audit_page


def words(rows: Sequence[Rollout]) -> list[Score]:
    return [Score(float(len(r.text.split()))) for r in rows]


@pytest.fixture(scope="module")
def page() -> dict:
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(60):
        texts = ["Good. " * int(k) for k in rng.integers(1, 9, 2)]
        answers = [(Message("assistant", t),) for t in texts]
        pairs.append(Pair((Message("user", f"<b>{i}</b>?"),), *answers, id=str(i)))
    card = full_audit(ScoredSubject("words <x>", words), pairs, seed=0, attack_calls=300)
    return {"title": "Audit of words", "facts": {"pairs": 60}, "rewards": {"words <x>": card}}


def test_lights_sentences_rules_and_advice_are_on_the_page(page: dict) -> None:
    html = audit_page(page)
    card = page["rewards"]["words <x>"]
    assert card["verdict"]["sentence"] in html
    plain = re.sub(r"&#39;", "'", html)
    for name, section in card["sections"].items():
        assert f'<section id="{name}">' in html
        assert section["sentence"] in plain
        assert all(text in plain for text in section["advice"])
    assert "words &lt;x&gt;" in html
    assert "words <x>" not in html
    assert html == audit_page(page)


def test_the_page_loads_nothing_and_runs_nothing(page: dict) -> None:
    html = audit_page(page)
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org)|@import|url\((?!#)", html)


def test_rewards_stand_side_by_side_and_a_missing_measure_says_so(page: dict) -> None:
    other = copy.deepcopy(page["rewards"]["words <x>"])
    bias = other["sections"]["bias"]
    bias["measures"] = [m for m in bias["measures"] if m["name"] != "filler"]
    html = audit_page({**page, "rewards": {**page["rewards"], "other": other}})
    assert html.count('class="summary ') == 2
    assert "--rewards: 2" in html
    assert html.count("not measured") == 1
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_whiskers_lie_on_the_scale(page: dict) -> None:
    places = re.findall(r'class="(?:range|dot|reference)" x1="([\d.]+)" x2="([\d.]+)"', audit_page(page))
    assert len(places) > 40
    assert all(0 <= float(x) <= 100 for row in places for x in row)
