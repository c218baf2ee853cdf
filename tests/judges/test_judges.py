"""Judges: verdicts, their flaws and what removes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.judges.base import Comparison
from rewardlab.judges.flawed import NoisyJudge, PositionBiasedJudge
from rewardlab.judges.jury import Jury
from rewardlab.judges.orders import BothOrders
from rewardlab.judges.scores import ScoreJudge, logistic
from rewardlab.judges.scripted import ScriptedJudge

PROMPT = Prompt((Message("user", "Which?"),))


def answer(text: str) -> Rollout:
    return Rollout(PROMPT, Sequence((0,), (False,)), text)


class Values:
    """A reward that reads its value off the text; `?` abstains, `!` fails."""

    name = "values"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        self.asked += [r.text for r in rollouts]
        special = {"?": Score.abstain("no idea"), "!": Score.error("broken")}
        return [special.get(r.text) or Score(float(r.text)) for r in rollouts]


def longer(a: str, b: str) -> float | None:
    return None if not a and not b else logistic(len(a) - len(b))


def constant(name: str, first: float | None) -> ScriptedJudge:
    return ScriptedJudge(name, lambda a, b: first)


def test_a_scripted_judge_that_raises_spoils_one_pair_only() -> None:
    judge = ScriptedJudge("ratio", lambda a, b: len(a) / len(b))
    rows = [("a", "bb"), ("a", ""), ("aaa", "b")]
    found = judge.compare([(answer(a), answer(b)) for a, b in rows])
    assert [c.status for c in found] == ["ok", "error", "error"]  # no preference above 1
    assert found[0].first == 0.5
    assert "ZeroDivisionError" in found[1].reason
    assert ScriptedJudge("none", lambda a, b: None).compare([(answer(""), answer(""))])[0].status == "abstain"


@given(a=st.floats(-1e3, 1e3), b=st.floats(-1e3, 1e3), temperature=st.sampled_from([0.0, 0.5, 3.0]))
def test_a_score_judge_is_antisymmetric(a: float, b: float, temperature: float) -> None:
    one, other = answer(repr(a)), answer(repr(b))
    forward, backward = ScoreJudge(Values(), temperature=temperature).compare([(one, other), (other, one)])
    assert forward.first is not None
    assert backward.first is not None
    assert forward.first + backward.first == pytest.approx(1)
    if temperature == 0:
        assert forward.first == (0.5 if a == b else float(a > b))
    else:
        assert math.isclose(forward.first, logistic((a - b) / temperature))


def test_a_score_judge_scores_each_answer_once_and_passes_failures_on() -> None:
    one, two, unsure, broken = (answer(x) for x in ("1", "2", "?", "!"))
    reward = Values()
    found = ScoreJudge(reward).compare([(one, two), (two, one), (one, unsure), (unsure, broken)])
    assert [c.status for c in found] == ["ok", "ok", "abstain", "error"]
    assert (found[2].reason, found[3].reason) == ("no idea", "broken")
    assert sorted(reward.asked) == ["!", "1", "2", "?"]


@given(st.lists(st.text(max_size=4), min_size=2, max_size=6, unique=True), st.integers(0, 5))
def test_noise_depends_on_the_pair_and_not_on_batch_or_order(texts: list[str], seed: int) -> None:
    judge = NoisyJudge(ScriptedJudge("longer", longer), rate=0.5, seed=seed)
    rows = [(answer(a), answer(b)) for a in texts for b in texts if a != b]
    together = judge.compare(rows)
    assert together == [judge.compare([row])[0] for row in rows]
    turned = judge.compare([(b, a) for a, b in rows])
    for forward, backward in zip(together, turned, strict=True):
        assert (forward.first is None) == (backward.first is None)
        assert forward.first is None or forward.first + (backward.first or 0) == pytest.approx(1)


def test_the_rate_of_noise_is_the_share_of_flipped_pairs() -> None:
    rows = [(answer(f"{i} long"), answer(str(i))) for i in range(2000)]
    flipped = [c.first for c in NoisyJudge(constant("first", 1.0), rate=0.2, seed=0).compare(rows)].count(0.0)
    assert abs(flipped / 2000 - 0.2) < 4 * math.sqrt(0.16 / 2000)
    with pytest.raises(UserError, match="noise rate"):
        NoisyJudge(constant("first", 1.0), rate=1.5, seed=0)


def test_both_orders_cancel_a_position_bias() -> None:
    rows = [(answer("same"), answer("same")), (answer("a"), answer("bb"))]
    biased = PositionBiasedJudge(ScriptedJudge("longer", longer), shift=1.0)
    assert biased.compare(rows)[0].first == pytest.approx(logistic(1.0))
    both = BothOrders(biased)
    found = both.compare(rows)
    assert found[0].first == pytest.approx(0.5)
    assert found[1].first is not None
    assert found[1].first == pytest.approx((logistic(0) + 1 - logistic(2)) / 2)
    assert both.asked == 2
    assert both.inconsistency == 0.5  # the first pair: whoever is shown first wins
    strict = BothOrders(biased, inconsistent_abstains=True)
    assert [c.status for c in strict.compare(rows)] == ["abstain", "ok"]


def test_half_an_answer_is_no_verdict() -> None:
    judge = BothOrders(ScriptedJudge("picky", lambda a, b: None if a == "x" else 1.0))
    assert judge.compare([(answer("x"), answer("y"))])[0].status == "abstain"
    assert judge.asked == 0
    assert judge.inconsistency == 0.0


@pytest.mark.parametrize(
    ("count", "expected"), [("votes", (2 * 1 + 1 * 0.5) / 4), ("mean", (2 * 0.9 + 1 * 0.5 + 1 * 0.2) / 4)]
)
def test_a_jury_weighs_votes(count: str, expected: float) -> None:
    judges = [constant("a", 0.9), constant("b", 0.5), constant("c", 0.2), constant("d", None)]
    pair = [(answer("x"), answer("y"))]
    verdict = Jury(judges, [2, 1, 1, 5], count=count).compare(pair)[0]
    assert verdict.first == pytest.approx(expected)
    assert "3 of 4" in verdict.reason
    assert Jury(judges, quorum=4).compare(pair)[0].status == "abstain"


def test_a_jury_of_the_silent_and_of_the_broken() -> None:
    broken = ScriptedJudge("broken", lambda a, b: 1 / 0)
    pair = [(answer("x"), answer("y"))]
    assert Jury([broken, constant("d", None)]).compare(pair)[0].status == "abstain"
    assert Jury([broken, broken]).compare(pair)[0].status == "error"
    assert Jury([broken, constant("a", 1.0)]).compare(pair)[0] == Comparison(
        1.0, reason="1 of 2 judges have a verdict"
    )
    for weights in ([1.0], [1.0, 0.0]):
        with pytest.raises(UserError):
            Jury([broken, broken], weights)
