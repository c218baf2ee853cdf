"""Tournaments: strengths agree with direct optimisation, and depend on the answers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.judges.flawed import PositionBiasedJudge
from rewardlab.judges.scripted import ScriptedJudge
from rewardlab.rewards import strengths
from rewardlab.rewards.tournament import AnchoredTournament, Tournament, TournamentSettings


def answer(text: str, group: int = 0, **meta: object) -> Rollout:
    prompt = Prompt((Message("user", f"question {group}"),), meta=meta, place=f"a.jsonl:{group}")
    return Rollout(prompt, Sequence((0,), (False,)), text, group)


def longer(a: str, b: str) -> float:
    return 1 / (1 + math.exp(len(b) - len(a)))


LONGER = ScriptedJudge("longer", longer)
WINS = st.integers(2, 6).flatmap(
    lambda g: st.lists(
        st.lists(st.sampled_from([0.0, 0.3, 1.0, None]), min_size=g, max_size=g), min_size=g, max_size=g
    )
)


def matrices(table: list[list[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    wins, games = np.zeros((len(table),) * 2), np.zeros((len(table),) * 2)
    for a in range(len(table)):
        for b in range(a):
            if (won := table[a][b]) is not None:
                wins[a, b], wins[b, a], games[a, b], games[b, a] = won, 1 - won, 1, 1
    return wins, games


@settings(deadline=None, max_examples=30)
@given(WINS)
def test_bradley_terry_is_the_optimum_that_scipy_finds(table: list[list[float | None]]) -> None:
    wins, games = matrices(table)
    theta = strengths.bradley_terry(wins, games, prior=0.3)

    def loss(x: np.ndarray) -> float:
        gap = x[:, None] - x
        prior = 0.3 * (np.logaddexp(0, -x) + np.logaddexp(0, x)).sum()
        return float((wins * np.logaddexp(0, -gap)).sum() + prior)

    found = minimize(loss, np.zeros(len(wins)), method="BFGS", options={"gtol": 1e-8}).x
    played = games.sum(1) > 0
    assert np.isnan(theta[~played]).all()
    assert theta[played] == pytest.approx(found[played], abs=1e-4)
    assert np.isfinite(strengths.bradley_terry_error(theta, games, prior=0.3)[played]).all()


def test_the_error_of_a_strength_is_the_curvature_of_the_likelihood() -> None:
    """One pair with a fixed prior: the information is 2 x 2 and can be inverted by hand."""
    wins, games = np.array([[0, 1.0], [0, 0]]), np.array([[0, 1.0], [1, 0]])
    theta = strengths.bradley_terry(wins, games)
    v = lambda x: math.exp(x) / (1 + math.exp(x)) ** 2  # noqa: E731
    pair, own = v(theta[0] - theta[1]), v(theta[0])
    expected = math.sqrt((pair + own) / ((pair + own) ** 2 - pair**2))
    assert strengths.bradley_terry_error(theta, games) == pytest.approx([expected] * 2)


@given(WINS, st.randoms(use_true_random=False))
def test_strengths_move_with_the_answers(table: list[list[float | None]], random: object) -> None:
    wins, games = matrices(table)
    order = list(range(len(wins)))
    random.shuffle(order)  # type: ignore[attr-defined]
    at = np.ix_(order, order)
    for strength in (strengths.win_share, strengths.win_share_error, strengths.bradley_terry):
        moved, still = strength(wins[at], games[at]), strength(wins, games)[order]
        assert moved == pytest.approx(still, abs=1e-7, nan_ok=True)


def test_elo_by_hand() -> None:
    wins, games = np.array([[0, 1.0], [0, 0]]), np.array([[0, 1.0], [1, 0]])
    assert strengths.elo(wins, games, np.array([[0, 1]])).tolist() == [1016.0, 984.0]
    twice = strengths.elo(wins, games, np.array([[0, 1], [0, 1]]))
    assert twice[0] == pytest.approx(1016 + 32 * (1 - 1 / (1 + 10 ** (-32 / 400))))
    assert twice.sum() == pytest.approx(2000)


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(st.text("ab", max_size=6), min_size=2, max_size=6, unique=True),
    pairs=st.sampled_from([None, 3]),
    both=st.booleans(),
    strength=st.sampled_from(["win_share", "elo", "bradley_terry"]),
    seed=st.integers(0, 3),
    random=st.randoms(use_true_random=False),
)
def test_a_value_depends_on_the_group_alone(
    texts: list[str], pairs: int | None, both: bool, strength: str, seed: int, random: object
) -> None:
    """Not on the order within the group, nor on other groups in the batch, even where pairs are drawn."""
    reward = Tournament("t", LONGER, strength=strength, pairs_per_group=pairs, both_orders=both, seed=seed)
    alone = {
        r.text: s.value
        for r, s in zip(map(answer, texts), reward.score([answer(t) for t in texts]), strict=True)
    }
    rows = [answer(t) for t in texts] + [answer(t, 1) for t in ("x", "yy")]
    random.shuffle(rows)  # type: ignore[attr-defined]
    for row, score in zip(rows, reward.score(rows), strict=True):
        if row.group == 0:
            assert score.value == pytest.approx(alone[row.text])


@pytest.mark.parametrize("strength", ["win_share", "elo", "bradley_terry"])
def test_every_strength_ranks_by_the_judge(strength: str) -> None:
    scores = Tournament("t", LONGER, strength=strength).score([answer("a" * n) for n in (3, 1, 4, 2)])
    values = [s.value or 0.0 for s in scores]
    assert np.argsort(values).tolist() == [1, 3, 0, 2]
    assert all(s.parts["games"] == 3 for s in scores)
    assert all((s.uncertainty is None) == (strength == "elo") for s in scores)


def test_an_undefeated_answer_is_finite_and_mean_share_is_a_half() -> None:
    sure = ScriptedJudge("sure", lambda a, b: float(len(a) > len(b)))
    rows = [answer("a" * n) for n in (1, 2, 3)]
    shares = [s.value for s in Tournament("t", sure).score(rows)]
    assert shares == [0.0, 0.5, 1.0]
    theta = [s.value or 0.0 for s in Tournament("t", sure, strength="bradley_terry").score(rows)]
    assert theta == pytest.approx([-theta[2], 0, theta[2]], abs=1e-7)
    assert all((s.uncertainty or 0) > 0 for s in Tournament("t", sure).score(rows))


def test_position_bias_does_not_reach_the_value() -> None:
    """Equal answers before a judge with a strong bias: a half each, asked in both orders."""
    biased = PositionBiasedJudge(ScriptedJudge("even", lambda a, b: 0.5), shift=2.0)
    scores = Tournament("t", biased).score([answer(t) for t in "abcd"])
    assert [s.value for s in scores] == pytest.approx([0.5] * 4)


def test_groups_that_cannot_compete() -> None:
    silent = ScriptedJudge("silent", lambda a, b: None)
    broken = ScriptedJudge("broken", lambda a, b: 1 / 0)
    picky = ScriptedJudge("picky", lambda a, b: None if "x" in (a, b) else 1.0)
    pair = [answer("a"), answer("b")]
    assert Tournament("t", LONGER).score([]) == []
    assert Tournament("t", LONGER).score([answer("a")])[0].status == "abstain"
    assert [s.status for s in Tournament("t", silent).score(pair)] == ["abstain"] * 2
    failed = Tournament("t", broken).score(pair)
    assert [s.status for s in failed] == ["error"] * 2
    assert "ZeroDivisionError" in failed[0].reason
    some = Tournament("t", picky).score([*pair, answer("x")])
    assert [s.status for s in some] == ["ok", "ok", "abstain"]


def test_answers_to_different_prompts_never_meet() -> None:
    """Rollouts that nobody grouped all have group 0."""
    other = Prompt((Message("user", "another question"),))
    rows = [answer("a"), Rollout(other, Sequence((0,), (False,)), "bb")]
    assert [s.status for s in Tournament("t", LONGER).score(rows)] == ["abstain"] * 2


def test_anchors() -> None:
    rows = [answer("aa", anchors=["a", "aaa"]), answer("aaaa", anchors="aa"), answer("a")]
    scores = AnchoredTournament("t", LONGER).score(rows)
    assert scores[0].value == pytest.approx(0.5)
    assert scores[1].value == pytest.approx(1 / (1 + math.exp(-2)))
    assert scores[0].parts["games"] == 2
    assert (scores[2].status, "a.jsonl:0" in scores[2].reason) == ("error", True)
    assert scores[:1] == AnchoredTournament("t", LONGER).score(rows[:1])


class Length:
    name = "length"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score(float(len(r.text))) for r in rollouts]


class Rewards:
    """Finds one reward."""

    def reward(self, name: str) -> Length:
        assert name == "length"
        return Length()


def test_settings_build_both_kinds() -> None:
    rows = [answer("aaa", anchors="aa"), answer("a", anchors="aa")]
    plain = TournamentSettings(reward="length", temperature=0, flip_rate=0.0)
    assert [s.value for s in plain.build("t", Rewards()).score(rows)] == [1.0, 0.0]
    flipped = TournamentSettings(reward="length", temperature=0, flip_rate=1.0, position_shift=1.0)
    assert [s.value for s in flipped.build("t", Rewards()).score(rows)] == [0.0, 1.0]
    anchored = TournamentSettings(reward="length", temperature=0, anchors="anchors")
    assert [s.value for s in anchored.build("t", Rewards()).score(rows)] == [1.0, 0.0]
