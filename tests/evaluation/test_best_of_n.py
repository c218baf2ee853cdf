"""Best-of-n: the estimator against all subsets, the bound on its KL, and what is left out."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.evaluation.best_of_n import best_of_n, kl_bound, selection_weights

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=7)


@given(proxy=SCORES, data=st.data())
def test_weights_are_those_of_all_subsets(proxy: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(proxy)))
    expected = np.zeros(len(proxy))
    subsets = list(combinations(range(len(proxy)), n))
    for subset in subsets:
        best = max(proxy[i] for i in subset)
        ties = [i for i in subset if proxy[i] == best]
        for i in ties:
            expected[i] += 1 / len(ties) / len(subsets)
    np.testing.assert_allclose(selection_weights(proxy, n), expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_unbiased_on_every_draw_of_a_small_policy(n: int) -> None:
    """Four answers drawn from a policy over three: the estimate's exact expectation is the exact value."""
    p, proxy, gold = [0.5, 0.3, 0.2], [0.0, 1.0, 2.0], [1.0, 3.0, -4.0]

    def of_best(draw: tuple[int, ...]) -> float:
        return gold[max(draw, key=lambda i: proxy[i])]

    def probability(draw: tuple[int, ...]) -> float:
        return math.prod(p[i] for i in draw)

    exact = sum(probability(d) * of_best(d) for d in product(range(3), repeat=n))
    estimate = sum(
        probability(d) * float(selection_weights([proxy[i] for i in d], n) @ np.array([gold[i] for i in d]))
        for d in product(range(3), repeat=4)
    )
    assert estimate == pytest.approx(exact, abs=1e-12)


def test_many_answers_stay_finite() -> None:
    weights = selection_weights(np.arange(5000), 2500)
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert weights[-1] == pytest.approx(0.5, abs=1e-9)


@given(st.integers(1, 6), st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5))
def test_the_bound_holds_for_the_exact_kl(n: int, raw: list[float]) -> None:
    p = np.array(raw) / sum(raw)
    cdf = np.concatenate([[0.0], p.cumsum()])
    cdf[-1] = 1.0
    best = cdf[1:] ** n - cdf[:-1] ** n
    assert float((best * np.log(best / p)).sum()) <= kl_bound(n) + 1e-9


def test_the_curve_by_hand_and_what_is_left_out() -> None:
    nan = math.nan
    columns = {
        "proxy": [0.0, 1.0, 2.0, 5.0, 4.0, 4.0, nan, 9.0],
        "gold": [1.0, 2.0, 0.0, 3.0, 1.0, 2.0, 0.0, 1.0],
    }
    found = best_of_n(columns, [0, 0, 0, 1, 1, 1, 2, 2], proxy="proxy", sizes=[1, 2], seed=0)
    assert (found["prompts"], found["prompts_left_out"], found["answers_left_out"]) == (2, 1, 1)
    one, two = found["curve"]
    assert one["kl_bound"] == 0.0
    assert two["kl_bound"] == pytest.approx(math.log(2) - 0.5)
    assert one["rewards"]["gold"]["estimate"] == pytest.approx((1.0 + 2.0) / 2)
    # Best of two: prompt 0 picks 2, 1 with 2/3, 1/3; prompt 1 picks 5 with 2/3, each of the ties with 1/6.
    assert two["rewards"]["proxy"]["estimate"] == pytest.approx((5 / 3 + 14 / 3) / 2)
    assert two["rewards"]["gold"]["estimate"] == pytest.approx((2 / 3 + 2.5) / 2)


def test_too_few_answers_are_named() -> None:
    with pytest.raises(UserError, match="no prompt has 4 answers"):
        best_of_n({"proxy": [1.0, 2.0]}, [0, 0], proxy="proxy", sizes=[4], seed=0)
    with pytest.raises(UserError, match="no reward 'gold'"):
        best_of_n({"proxy": [1.0]}, [0], proxy="gold", sizes=[1], seed=0)
