"""Distribution matching: what the energy distance rewards, and where each method leads a policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import energy_distance as scipy_energy
from scipy.stats import norm, wasserstein_distance

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.rewards.distribution import (
    DistributionMatch,
    DistributionSettings,
    Method,
    distribution_rewards,
    energy,
    energy_distance,
    leave_one_out,
)

SAMPLE = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@settings(deadline=None)
@given(SAMPLE, SAMPLE)
def test_energy_distance_is_scipys_squared(x: list[float], y: list[float]) -> None:
    assert energy_distance(x, y) == pytest.approx(scipy_energy(x, y) ** 2, abs=1e-6)


@settings(deadline=None)
@given(SAMPLE, SAMPLE)
def test_both_forms_by_brute_force(s: list[float], y: list[float]) -> None:
    n = len(s)
    by_definition = [
        sum(abs(s[i] - s[j]) for j in range(n) if j != i) / (n - 1) - np.mean([abs(s[i] - t) for t in y])
        for i in range(n)
    ]
    assert energy(s, y) == pytest.approx(by_definition, abs=1e-8)
    without = [energy_distance(s[:i] + s[i + 1 :], y) - energy_distance(s, y) for i in range(n)]
    assert leave_one_out(s, y) == pytest.approx(np.array(without) * (n - 1) / 2, abs=1e-7)


def test_the_reward_is_minus_half_the_derivative_of_the_distance() -> None:
    """Mix a little weight on one answer into a large sample and watch the distance move."""
    rng = np.random.default_rng(0)
    s, y = rng.normal(size=400), rng.normal(1, 0.5, size=300)
    rewards = energy(s, y)
    for i in (int(s.argmin()), int(s.argmax())):
        more = energy_distance(np.concatenate([s, s[i : i + 1]]), y)  # mass 1/401 moved onto answer i
        slope = (more - energy_distance(s, y)) * 401
        assert slope == pytest.approx(-2 * (rewards[i] - rewards.mean()), rel=0.02, abs=0.02)


def test_at_the_target_the_reward_is_flat() -> None:
    y = np.random.default_rng(0).normal(size=4000)
    s = np.random.default_rng(1).normal(size=4000)
    assert np.abs(energy(s, y)).max() < 0.1  # a distance away it is of the order of the distance
    assert np.abs(energy(s + 2, y)).max() > 1


@given(SAMPLE, SAMPLE, st.sampled_from(["energy", "leave_one_out", "max", "cap", "kde"]), st.randoms())
def test_rewards_move_with_the_answers(
    s: list[float], y: list[float], method: Method, random: object
) -> None:
    order = list(range(len(s)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = distribution_rewards([s[i] for i in order], y, method)
    assert moved == pytest.approx(distribution_rewards(s, y, method)[order], rel=1e-6, abs=1e-6)


GRID = np.linspace(-3, 4, 36)
TARGET = norm(1, 0.8).ppf((np.arange(200) + 0.5) / 200)


def trained(method: Method, *, updates: int = 800, seed: int = 0) -> np.ndarray:
    """REINFORCE on a categorical policy over scores: one batch of 256 a step, mean baseline, batch scale.

    The same updates, samples, baseline and learning rate for every method.
    """
    rng = np.random.default_rng(seed)
    logits = -0.1 * (GRID + 0.5) ** 2  # wide, and centred left of the target
    for _ in range(updates):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        drawn = rng.choice(len(GRID), 256, p=p)
        reward = distribution_rewards(GRID[drawn], TARGET, method)
        advantage = (reward - reward.mean()) / (reward.std() + 0.5)
        gradient = np.bincount(drawn, advantage, len(GRID)) / 256 - p * advantage.mean()
        logits = logits + 2.0 * gradient
    p = np.exp(logits - logits.max())
    found: np.ndarray = p / p.sum()
    return found


def moments(p: np.ndarray) -> tuple[float, float, float]:
    """Mean, deviation and W1 to the target."""
    mean = float((p * GRID).sum())
    distance = float(wasserstein_distance(GRID, TARGET, p))
    return mean, float((p * (GRID - mean) ** 2).sum() ** 0.5), distance


@pytest.mark.parametrize("method", ["energy", "leave_one_out"])
def test_a_policy_paid_by_energy_reaches_the_target(method: Method) -> None:
    mean, spread, distance = moments(trained(method))
    assert mean == pytest.approx(1, abs=0.15)
    assert spread == pytest.approx(0.8, abs=0.15)
    assert distance < 0.15


@pytest.mark.parametrize("method", ["max", "cap", "kde", "rank_w1"])
def test_what_else_is_paid_does_not_reach_it(method: Method) -> None:
    """max runs to the top, and kde to the mode, with hardly a spread; all end farther away than energy."""
    mean, spread, distance = moments(trained(method))
    assert distance > 0.3
    if method == "max":
        assert mean > 3
        assert spread < 0.4
    if method == "kde":
        assert abs(mean - 1) < 0.2
        assert spread < 0.4


class Value:
    name = "value"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score.abstain("no") if r.text == "?" else Score(float(r.text)) for r in rollouts]


def answer(text: str, kind: str = "a", group: int = 0) -> Rollout:
    prompt = Prompt((Message("user", kind),), meta={"kind": kind}, place="a.jsonl:1")
    return Rollout(prompt, Sequence((0,), (False,)), text, group)


def test_pools_by_class_and_by_group() -> None:
    rows = [
        answer("0"),
        answer("1", group=1),
        answer("5", "b"),
        answer("?"),
        answer("7", "b"),
        answer("9", "c"),
    ]
    match = DistributionMatch("m", Value(), {"a": [0.0, 1.0], "b": [6.0]}, class_field="kind")
    scores = match.score(rows)
    assert [s.status for s in scores] == ["ok", "ok", "ok", "abstain", "ok", "error"]
    assert [scores[0].value, scores[1].value] == pytest.approx(energy([0, 1], [0, 1]).tolist())
    assert [scores[2].value, scores[4].value] == pytest.approx(energy([5, 7], [6]).tolist())
    assert scores[0].parts["energy_distance"] == pytest.approx(0)
    assert "a.jsonl:1" in scores[5].reason
    by_group = DistributionMatch("m", Value(), [0.0, 1.0], scope="group").score(rows)
    assert [s.status for s in by_group] == ["abstain", "abstain", "ok", "abstain", "ok", "abstain"]


def test_bad_targets_are_refused() -> None:
    for target, field in (([], None), ([float("nan")], None), ({"a": [1.0]}, None), ([1.0], "kind")):
        with pytest.raises(UserError):
            DistributionMatch("m", Value(), target, class_field=field)


class Rewards:
    def reward(self, name: str) -> Value:
        return Value()


def test_settings_build_it() -> None:
    made = DistributionSettings(reward="value", target=[0.0, 1.0], method="cap").build("m", Rewards())
    assert [s.value for s in made.score([answer("0"), answer("2")])] == [0.0, 0.5]
