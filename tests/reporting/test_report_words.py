"""The wording rules of the verdict, and how numbers are rounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rewardlab.reporting.curves import thin
from rewardlab.reporting.intervals import Interval, read_difference, read_interval, show_interval, show_number
from rewardlab.reporting.tables import Row, panel
from rewardlab.reporting.verdict import verdict

FINITE = st.floats(-1e4, 1e4, allow_nan=False).map(lambda x: round(x, 6))


def told(**changes: tuple[float, float, float]) -> str:
    rows = [
        {
            "policy": "dpo",
            "baseline": "sft",
            "metric": m,
            "estimate": e,
            "low": lo,
            "high": hi,
            "p": 0.01,
            "p_holm": 0.02,
        }
        for m, (e, lo, hi) in changes.items()
    ]
    (sentence,) = verdict({"comparisons": rows})
    return sentence.text


UP, FLAT, DOWN = (0.41, 0.33, 0.49), (-0.02, -0.08, 0.04), (-0.3, -0.41, -0.2)
ZERO_EDGE = (0.1, 0.0, 0.2)


PROXY_UP = "DPO raised the proxy reward over SFT by +0.41 [0.33, 0.49]; "
PROXY_FLAT = "DPO made no clear change in the proxy reward against SFT: −0.02 [−0.08, 0.04]; "
PROXY_DOWN = "DPO lowered the proxy reward against SFT by −0.30 [−0.41, −0.20]; "


@pytest.mark.parametrize(
    ("proxy", "gold", "expected"),
    [
        (UP, UP, PROXY_UP + "gold was raised too by +0.41 [0.33, 0.49]."),
        (UP, FLAT, PROXY_UP + "gold did not follow: no clear change, −0.02 [−0.08, 0.04]."),
        (UP, DOWN, PROXY_UP + "gold went the other way and was lowered by −0.30 [−0.41, −0.20]."),
        (UP, ZERO_EDGE, PROXY_UP + "gold did not follow: no clear change, +0.10 [0.00, 0.20]."),
        (FLAT, FLAT, PROXY_FLAT + "gold shows no clear change, −0.02 [−0.08, 0.04]."),
        (FLAT, UP, PROXY_FLAT + "gold was raised by +0.41 [0.33, 0.49]."),
        (DOWN, DOWN, PROXY_DOWN + "gold was lowered too by −0.30 [−0.41, −0.20]."),
        (DOWN, UP, PROXY_DOWN + "gold went the other way and was raised by +0.41 [0.33, 0.49]."),
    ],
)
def test_gains_nulls_and_reversals(proxy: Any, gold: Any, expected: str) -> None:
    assert told(proxy=proxy, gold=gold) == expected


def test_gold_that_was_not_measured_is_said() -> None:
    assert told(proxy=UP).endswith("; gold was not measured.")


def test_nulls_are_marked_like_gains() -> None:
    rows = [{"policy": "a", "metric": m, "estimate": e, "low": lo, "high": hi} for m, (e, lo, hi) in
            {"proxy": UP, "gold": FLAT}.items()]  # fmt: skip
    (sentence,) = verdict({"baseline": "sft", "comparisons": rows})
    assert [(k, t) for k, t in sentence.segments if k not in ("", "number")] == [
        ("raised", "raised"),
        ("flat", "no clear change"),
    ]


def test_a_difference_without_bounds_claims_nothing() -> None:
    rows = [
        {"policy": "dpo", "baseline": "sft", "metric": "gold", "estimate": 5.0, "low": None, "high": None}
    ]
    (sentence,) = verdict({"comparisons": rows})
    assert "no interval" in sentence.text
    assert "raised" not in sentence.text


def test_a_claim_that_holm_does_not_carry_says_so() -> None:
    row = {"policy": "dpo", "baseline": "sft", "metric": "gold", "estimate": 0.2, "low": 0.01, "high": 0.39}
    (weak,) = verdict({"comparisons": [{**row, "p": 0.04, "p_holm": 0.2}]})
    (strong,) = verdict({"comparisons": [{**row, "p": 0.001, "p_holm": 0.004}]})
    assert "Holm’s correction p = 0.200" in weak.text
    assert "Holm" not in strong.text


def test_length_and_wins_are_told(summary: dict[str, Any]) -> None:
    row = {"policy": "dpo", "baseline": "sft", "metric": "length", "estimate": 7.1, "low": 5.2, "high": 9.0}
    summary["comparisons"].append(row)
    text = " ".join(s.text for s in verdict(summary))
    assert "It raised length by +7.1 [5.2, 9.0] tokens." in text
    assert "Win rate against SFT, judged by gold: 0.61 [0.55, 0.67]." in text
    assert "Failed check: Padding pays." in text


def test_a_reward_model_alone_gets_a_verdict(summary: dict[str, Any]) -> None:
    first, _ = verdict({"reward_model": summary["reward_model"]})
    assert "accuracy 0.712 [0.691, 0.732]; the Bayes ceiling is 0.804 [0.786, 0.822]" in first.text
    assert "longer answer gives 0.617 [0.595, 0.639]" in first.text


@given(FINITE, FINITE, FINITE)
def test_a_change_is_claimed_exactly_if_zero_is_outside(a: float, b: float, c: float) -> None:
    low, estimate, high = sorted((a, b, c))
    reading = read_difference(Interval(estimate, low, high))
    assert (reading == "no clear change") == (low <= 0 <= high)
    if reading != "no clear change":
        assert (reading == "raised") == (estimate > 0)


@given(FINITE | st.just(-0.0), st.none() | st.integers(0, 4), st.booleans())
def test_rounding_never_hides_a_value_or_its_sign(value: float, digits: int | None, signed: bool) -> None:
    text = show_number(value, digits, signed=signed).replace("−", "-").replace(",", "")
    assert (float(text) == 0) == (value == 0)
    assert value != 0 or "-" not in text
    assert float(text) * value >= 0
    assert abs(float(text) - value) <= max(abs(value) * 0.5, 0.5)


@given(FINITE, st.floats(0.001, 100), st.floats(0.001, 100))
def test_an_interval_keeps_two_digits_of_its_width(estimate: float, below: float, above: float) -> None:
    low, high = estimate - below, estimate + above
    text = show_interval(Interval(estimate, low, high)).replace("−", "-")
    shown_low, shown_high = (float(x) for x in text.split("[")[1].rstrip("]").split(", "))
    assert abs((shown_high - shown_low) - (high - low)) <= 0.1 * (high - low) + 2e-4


@pytest.mark.parametrize(
    "value", [None, {}, {"estimate": None}, float("nan"), "0.5", True, {"estimate": float("inf")}]
)
def test_what_is_not_a_number_is_not_an_interval(value: Any) -> None:
    assert read_interval(value) is None


@given(st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1, max_size=5), st.booleans())
def test_whiskers_stay_on_the_scale_and_in_order(
    rows: list[tuple[float, float, float]], paired: bool
) -> None:
    assume(len({x for row in rows for x in row}) > 1)
    ordered = [sorted(row) for row in rows]
    drawn = panel(
        "gold", [Row("p", Interval(m, lo, hi)) for lo, m, hi in ordered], reference=0.0 if paired else None
    )
    for line in drawn.lines:
        assert line.low is not None
        assert line.high is not None
        assert 0 <= line.low <= line.at <= line.high <= 100
    assert (drawn.reference is not None) == paired


@given(st.lists(FINITE, min_size=1, max_size=300), st.integers(2, 40))
def test_a_thinned_curve_is_made_of_its_own_points(values: list[float], bins: int) -> None:
    curve = [(float(i), v) for i, v in enumerate(values)]
    kept = thin(curve, bins)
    assert set(kept) <= set(curve)
    assert kept == sorted(kept)
    assert len(kept) <= 2 * bins + 2
    assert {min(values), max(values)} <= {v for _, v in kept}
    assert (kept[0], kept[-1]) == (curve[0], curve[-1])
