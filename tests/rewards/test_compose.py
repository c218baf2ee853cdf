"""Rewards made of rewards: arithmetic, what a failed part means, what is logged, and the YAML form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewardlab as rl
from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.catalog import Book, RewardsFile, from_yaml, settings_of, to_yaml
from rewardlab.rewards.compose.sums import calibrate
from rewardlab.rewards.rules import NumericAnswer, TextLength
from rewardlab.rewards.texts import to_rollouts

NUMBERS = st.floats(-100, 100)


class Told:
    """Says what the rollout's meta holds under its name: a number, None (abstains) or "error"."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, 0

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        self.seen += len(rollouts)
        return [self._one(r.prompt.meta.get(self.name)) for r in rollouts]

    def _one(self, said: Any) -> Score:
        if said == "error":
            return Score.error("broken")
        return Score.abstain("no idea") if said is None else Score(said, parts={"inner": said})


def told(**meta: Any) -> list[Rollout]:
    return to_rollouts(["p"], ["x"], [meta])


def build(parts: dict[str, Any] | None = None, name: str = "r", **rewards: dict[str, Any]) -> Any:
    """A reward from settings, over the given parts."""
    book = Book(load_settings(RewardsFile, {"rewards": rewards}).value.rewards, (parts or both()).__getitem__)
    return book.reward(name)


def both() -> dict[str, Told]:
    return {"a": Told("a"), "b": Told("b")}


A, B = rl.reward(Told("a")), rl.reward(Told("b"))


@settings(deadline=None, max_examples=40)
@given(a=NUMBERS, b=NUMBERS, u=NUMBERS, v=NUMBERS)
def test_operators_are_arithmetic(a: float, b: float, u: float, v: float) -> None:
    rows = told(a=a, b=b)
    cases = [
        (u * A + v * B, u * a + v * b),
        (A - B, a - b),
        (1 - A, 1 - a),
        (-(A + 2) * 3, -(a + 2) * 3),
        (A * B * 2, a * b * 2),
        (A * A, a * a),
        (A + A, 2 * a),
        (rl.maximum(A, B) - rl.minimum(A, B), abs(a - b)),
    ]
    for reward, expected in cases:
        assert reward.score(rows)[0].value == pytest.approx(expected, abs=1e-6)


def test_every_part_is_logged_under_its_own_name() -> None:
    mixed = (0.5 * A + 0.5 * (A * B).named("both")).named("mix")
    assert mixed.name == "mix"
    (score,) = mixed.score(told(a=2.0, b=3.0))
    assert score.value == 4.0
    assert score.parts == {
        **{"a": 2.0, "a/inner": 2.0, "both": 6.0},
        **{"both/a": 2.0, "both/a/inner": 2.0, "both/b": 3.0, "both/b/inner": 3.0},
    }


@pytest.mark.parametrize(
    ("combined", "a", "b", "status"),
    [
        (A + B, 1.0, "error", "error"),
        (A + B, None, "error", "error"),
        (A + B, 1.0, None, "abstain"),
        (A + 0 * B, 1.0, "error", "ok"),
        (A * B, 0.0, "error", "error"),
        (rl.maximum(A, B), 1.0, None, "abstain"),
        (A + B, 1.0, 1.0, "ok"),
    ],
)
def test_a_failed_part_is_never_a_number(combined: Any, a: Any, b: Any, status: str) -> None:
    (score,) = combined.score(told(a=a, b=b))
    assert score.status == status
    assert status == "ok" or ("a: " in score.reason) or ("b: " in score.reason)
    assert score.parts.get("a") == a


def test_abstentions_can_be_dropped_but_errors_cannot() -> None:
    r = {"kind": "sum", "weights": {"a": 1, "b": 3}, "on_abstain": "drop"}
    assert build(r=r).score(told(a=2.0, b=None))[0].value == 8.0
    assert build(r=r).score(told(a=None, b=None))[0].status == "abstain"
    assert build(r=r).score(told(a="error", b=None))[0].status == "error"


def test_a_gate_asks_what_lies_behind_only_where_it_is_open() -> None:
    parts = both()
    gate = build(parts, r={"kind": "gate", "condition": "a", "then": "b", "otherwise": -1})
    rows = told(a=1.0, b=0.5) + told(a=0.0, b="error") + told(a=1.0, b="error") + told(a=None, b=1.0)
    assert [(s.value, s.status) for s in gate.score(rows)] == [
        *((0.5, "ok"), (-1.0, "ok")),
        *((None, "error"), (None, "abstain")),
    ]
    assert parts["b"].seen == 2


def test_a_route_goes_by_the_prompts_domain() -> None:
    parts = both()
    route = build(parts, r={"kind": "route", "routes": {"math": "a", "chat": "b"}})
    rows = told(domain="math", a=1.0) + told(domain="chat", b=2.0) + told(domain="law", a=1.0)
    scores = route.score(rows)
    assert [s.value for s in scores] == [1.0, 2.0, None]
    assert "law" in scores[2].reason
    assert (parts["a"].seen, parts["b"].seen) == (1, 1)
    rest = build(r={"kind": "route", "routes": {"math": "a"}, "default": "b"})
    assert rest.score(told(domain="law", b=5.0))[0].value == 5.0


def test_weights_follow_a_schedule_over_the_policy_version() -> None:
    ramp = {"start": 0.0, "peak": 1.0, "warmup_steps": 10}
    reward = build(r={"kind": "sum", "weights": {"a": ramp, "b": 1.0}})
    rows = [
        replace(r, sequence=replace(r.sequence, version=v)) for v in (0, 5, 50) for r in told(a=1.0, b=0.0)
    ]
    assert [s.value for s in reward.score(rows)] == pytest.approx([0.0, 0.5, 1.0])


@settings(deadline=None, max_examples=25)
@given(
    values=st.lists(st.integers(-500, 500).map(lambda n: n / 100), min_size=3, max_size=8),
    scale=st.floats(0.1, 50),
    shift=st.floats(-50, 50),
)
def test_normalised_parts_do_not_depend_on_their_units(
    values: list[float], scale: float, shift: float
) -> None:
    rows = [r for v in values for r in told(a=v, b=v * scale + shift)]
    for how in ("batch", "group"):
        rows = [replace(r, group=i % 2) for i, r in enumerate(rows)]
        one = build(r={"kind": "sum", "weights": {"a": 1}, "normalise": how}).score(rows)
        two = build(r={"kind": "sum", "weights": {"b": 1}, "normalise": how}).score(rows)
        if max(values) - min(values) > 1e-3:
            assert [s.value for s in one] == pytest.approx([s.value for s in two], abs=1e-3)


def test_statistics_measured_once_keep_scores_independent_of_their_neighbours() -> None:
    rows = [r for v in (1.0, 2.0, 3.0) for r in told(a=v)]
    found = calibrate(A, rows)
    assert (found.mean, found.sd) == (2.0, 1.0)
    fixed = {
        "kind": "sum",
        "weights": {"a": 1},
        "normalise": "fixed",
        "statistics": {"a": found.model_dump()},
    }
    assert build(r=fixed).score(rows[2:])[0].value == 1.0
    clip = {"kind": "clip", "of": "a", "mean": 2.0, "sd": 1.0, "deviations": 0.5}
    assert [s.value for s in build(r=clip).score(rows)] == [1.5, 2.0, 2.5]
    with pytest.raises(ValueError, match="spread"):
        calibrate(A, rows[:1])
    with pytest.raises(UserError, match="statistics"):
        build(r={**fixed, "statistics": {}})


@settings(deadline=None, max_examples=25)
@given(x=st.floats(-1e6, 1e6))
def test_squashed_values_are_bounded_and_in_order(x: float) -> None:
    for function, low in (("tanh", -1.0), ("sigmoid", 0.0)):
        squash = build(r={"kind": "squash", "of": "a", "function": function, "scale": 3})
        first, second = (s.value for s in squash.score(told(a=x) + told(a=x + 1)))
        assert low <= first <= second <= 1


def test_noise_is_a_fixed_function_of_the_answer() -> None:
    flip = {"kind": "flip", "of": "a", "rate": 0.3}
    rows = to_rollouts(["p"] * 600, [f"answer {i}" for i in range(600)], [{"a": 1.0}] * 600)
    values = [s.value for s in build(r=flip).score(rows)]
    assert 0.24 < values.count(0.0) / 600 < 0.36
    assert [s.value for s in build(r=flip).score(rows[::-1])] == values[::-1]
    assert [s.value for s in build(r={**flip, "seed": 1}).score(rows)] != values


def test_a_baseline_takes_out_how_easy_the_prompt_is() -> None:
    baseline = build({"n": TextLength()}, r={"kind": "baseline", "of": "n"})
    rows = to_rollouts(
        ["p", "q", "s", "t"],
        ["one two three"] * 4,
        [{"baseline": "one"}, {"baseline": ["one", "one two three"]}, {"baseline": 7}, {}],
    )
    scores = baseline.score(rows)
    assert [s.value for s in scores] == [2.0, 1.0, -4.0, None]
    assert scores[3].status == "error"
    assert scores[1].parts == {"n": 3.0, "n/baseline": 2.0}


def test_the_yaml_form_makes_the_same_reward_again() -> None:
    made = (0.7 * (right := NumericAnswer("right")) + 0.3 * rl.minimum(right, A) - 1).named("mix")
    again = from_yaml(to_yaml(made), {"a": Told("a")}.__getitem__).reward("mix")
    rows = to_rollouts(["p"], ["#### 3"], [{"answer": 3, "a": 0.5}])
    assert again.score(rows) == made.score(rows)
    assert settings_of(again) == settings_of(made)
    assert to_yaml(again) == to_yaml(made)
    with pytest.raises(UserError, match="made in Python"):
        to_yaml(A)


def test_names_that_would_be_mixed_up_are_refused() -> None:
    with pytest.raises(UserError, match="two parts"):
        rl.maximum(Told("a"), Told("a"))
    assert (rl.reward(Told("a"), "other") + A).score(told(a=1.0))[0].value == 2.0


def test_a_reward_made_of_itself_is_refused() -> None:
    circle = {"x": {"kind": "sum", "weights": {"y": 1}}, "y": {"kind": "product", "of": ["x"]}}
    with pytest.raises(UserError, match="x -> y -> x"):
        build(name="x", **circle)
