"""Advantages of whole answers: by hand, by enumeration, and at the edges that peers leave undefined."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.objectives import advantage as adv

NAMES = tuple(adv.ADVANTAGES)
CENTRED_BY_GROUP = tuple(n for n in NAMES if n not in ("reinforce_pp", "reinforce_pp_baseline"))


def run(
    name: str,
    reward: torch.Tensor,
    group: torch.Tensor,
    valid: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
) -> torch.Tensor:
    every = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    return adv.by_name(name, reward, group, every, torch.ones_like(reward) if length is None else length)


def test_rloo_is_reward_minus_the_mean_of_the_others() -> None:
    reward = torch.tensor([1.0, 2.0, 6.0, 5.0, 1.0])
    group = torch.tensor([0, 0, 0, 1, 1])
    assert adv.rloo(reward, group).tolist() == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5, 4.0, -4.0])


def test_opo_baseline_is_weighed_by_length() -> None:
    reward, length = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 5.0])
    found = adv.opo(reward, torch.zeros(3, dtype=torch.long), length=length)
    assert found.tolist() == pytest.approx([0.75, -0.25, -0.25])


def test_reinforce_pp_is_standardised_over_the_tokens_of_the_step() -> None:
    reward, length = torch.tensor([1.0, 4.0, 2.0]).double(), torch.tensor([3.0, 1.0, 2.0]).double()
    group = torch.tensor([0, 0, 1])
    per_token = reward.repeat_interleave(length.long())
    expected = (reward - per_token.mean()) / per_token.std()
    torch.testing.assert_close(adv.reinforce_pp(reward, group, length=length), expected)
    found = adv.reinforce_pp_baseline(reward, group, length=length)
    centred = torch.tensor([-1.5, 1.5, 0.0]).double()
    tokens = centred.repeat_interleave(length.long())
    expected = (centred - tokens.mean()) / tokens.std()
    torch.testing.assert_close(found[:2], expected[:2])
    assert float(found[2]) == 0.0  # alone in its group


def test_max_rl_and_gpg_by_hand() -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    assert adv.max_rl(reward, group).tolist() == [3.0, -1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    assert adv.gpg(reward, group).tolist() == pytest.approx([2.25, -0.75, -0.75, -0.75, 0, 0, 0, 0])
    with pytest.raises(UserError, match="negative"):
        adv.max_rl(-reward, group)


def test_remax_subtracts_the_greedy_reward() -> None:
    found = adv.remax(
        torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, 0.5]), torch.tensor([True, True, False])
    )
    assert found.tolist() == [0.0, -1.0, 0.0]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("right", range(6))
def test_pass_at_k_is_the_mean_over_all_subsets(k: int, right: int) -> None:
    """Exhaustively: each k-subset of the group is one try with reward max(r)."""
    reward = torch.tensor([1.0] * right + [0.0] * (5 - right)).double()
    subsets = list(itertools.combinations(range(5), k))
    best = torch.tensor([float(reward[list(s)].max()) for s in subsets]).double()
    std = best.std(correction=0)
    expected = torch.zeros(5).double()
    if float(std) > 0:
        for i in range(5):
            own = torch.stack([b for s, b in zip(subsets, best, strict=True) if i in s])
            expected[i] = (own - best.mean()).mean() / std
    found = adv.pass_at_k(reward, torch.zeros(5, dtype=torch.long), k=k)
    torch.testing.assert_close(found, expected)


def test_pass_at_k_edges() -> None:
    group = torch.tensor([0, 0, 0])
    few = torch.tensor([True, True, False])
    assert adv.by_name("pass_at_k", torch.tensor([1.0, 0.0, 0.0]), group, few, few.float(), k=1).any()
    assert not adv.pass_at_k(torch.tensor([1.0, 0.0, 1.0]), group, few, k=3).any()
    with pytest.raises(UserError, match="neither 0 nor 1"):
        adv.pass_at_k(torch.tensor([0.5, 0.0, 1.0]), group)


def test_gdpo_keeps_objectives_apart_that_a_sum_would_merge() -> None:
    group = torch.tensor([0, 0, 1, 1])
    parts = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 10.0]]).double()
    found = adv.gdpo(parts, torch.ones(2).double(), group)
    assert float(found[3]) == pytest.approx(2 * float(found[1]), rel=1e-3)  # not 11 times
    absent = parts.clone()
    absent[1, 2:] = float("nan")
    found = adv.gdpo(absent, torch.ones(2).double(), group)
    assert float(found[3]) == pytest.approx(float(found[1]))
    assert not adv.gdpo(parts * 0 + 0.1, torch.ones(2).double(), group).any()
    with pytest.raises(UserError, match="one weight per objective"):
        adv.gdpo(parts, torch.ones(3), group)


def test_pairwise_differences_of_rewards_are_the_standardised_rewards() -> None:
    """V7."""
    r = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = adv.pairwise(r[:, None] - r[None, :])
    torch.testing.assert_close(found, (r - r.mean()) / r.std())


def test_pairwise_edges() -> None:
    r = torch.tensor([1.0, 2.0, 9.0]).double()
    d = r[:, None] - r[None, :]
    two = adv.pairwise(d, torch.tensor([True, True, False]))
    torch.testing.assert_close(two[:2], (r[:2] - r[:2].mean()) / r[:2].std())
    assert float(two[2]) == 0.0
    assert not adv.pairwise(torch.zeros(4, 4)).any()
    assert adv.pairwise(torch.zeros(1, 1)).tolist() == [0.0]
    with pytest.raises(UserError, match="antisymmetric"):
        adv.pairwise(torch.ones(2, 2))
    with pytest.raises(UserError, match="not square"):
        adv.pairwise(torch.ones(2, 3))


def test_mixed_value_at_risk_is_never_positive() -> None:
    """V9: the values of the released code's formula, and 0 above the upper quantile."""
    q = adv.Quantiles(low=1.0, high=4.0)
    found = adv.mixed_value_at_risk(torch.arange(0.0, 6.0), q)
    by_hand = [(1.5 * -5.0 - 3 / 0.7) / 2.5, -3 / 0.7 / 2.5, -2 / 0.7 / 2.5, -1 / 0.7 / 2.5, 0.0, 0.0]
    assert found.tolist() == pytest.approx(by_hand, abs=1e-6)


def test_tracked_quantiles_find_the_quantiles() -> None:
    g = torch.Generator().manual_seed(0)
    q = adv.Quantiles(0.0, 0.0)
    for _ in range(4000):
        q = q.tracked(torch.rand(8, generator=g), rate=0.01)
    assert q.low == pytest.approx(0.2, abs=0.05)
    assert q.high == pytest.approx(0.9, abs=0.05)


def test_riskpo_bundles_and_spreads_credit() -> None:
    reward = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    group = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    score, paper = adv.bundle_scores(reward, group, questions=2)
    assert score.tolist() == [2.0, 0.0, 2.0, 2.0]
    assert paper.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    q = adv.Quantiles(low=0.5, high=1.5)
    found = adv.riskpo(reward, group, q, questions=2)
    raw = adv.mixed_value_at_risk(torch.tensor([2.0, 0.0]), q)
    std = 2**0.5
    assert found.tolist() == pytest.approx([0.0, float(raw[1]) / std, 0.0, float(raw[1]) / std, 0, 0, 0, 0])
    with pytest.raises(UserError, match="do not make bundles of 3"):
        adv.riskpo(reward, group, q, questions=3)


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "gpg"])
@pytest.mark.parametrize("flip", [0.1, 0.4, 0.5])
def test_flipping_rewards_scales_the_expected_advantage(name: str, flip: float) -> None:
    """V5: by 1 - 2f, per answer as per group; the expectation over all flips is exact."""
    reward, group = torch.tensor([1.0, 1.0, 0.0, 0.0]).double(), torch.zeros(4, dtype=torch.long)
    length = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    clean = run(name, reward, group, length=length)
    by_answer = torch.zeros(4).double()
    for flips in itertools.product([False, True], repeat=4):
        p = torch.tensor([flip if f else 1 - flip for f in flips]).double().prod()
        noisy = torch.where(torch.tensor(flips), 1 - reward, reward)
        by_answer = by_answer + p * run(name, noisy, group, length=length)
    torch.testing.assert_close(by_answer, (1 - 2 * flip) * clean)
    by_group = (1 - flip) * clean + flip * run(name, 1 - reward, group, length=length)
    torch.testing.assert_close(by_group, (1 - 2 * flip) * clean)


def test_standardised_groups_learn_most_at_half_accuracy() -> None:
    """V10: the expected |A| of a standardised Bernoulli group of 8 is symmetric and largest at 0.5."""

    def expected(p: float) -> float:
        total = 0.0
        for right in range(9):
            reward = torch.tensor([1.0] * right + [0.0] * (8 - right)).double()
            ways = len(list(itertools.combinations(range(8), right)))
            a = adv.group_relative(reward, torch.zeros(8, dtype=torch.long), scale_by_std=True)
            total += ways * p**right * (1 - p) ** (8 - right) * float(a.abs().mean())
        return total

    values = {p: expected(p) for p in (0.02, 0.1, 0.5, 0.9, 0.98)}
    assert values[0.1] == pytest.approx(values[0.9])
    assert values[0.02] == pytest.approx(values[0.98])
    assert values[0.5] == pytest.approx(0.87, abs=0.01)
    assert values[0.1] == pytest.approx(0.39, abs=0.01)
    assert values[0.02] == pytest.approx(0.10, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_rewards_give_exactly_zero(name: str, value: float) -> None:
    group = torch.tensor([0, 0, 0, 1, 1])
    assert not run(name, torch.full((5,), value), group).any()
    if name not in ("pass_at_k",):
        assert not run(name, torch.full((5,), 0.1), group, length=torch.tensor([1.0, 2, 3, 4, 5])).any()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "reinforce_pp"])
def test_a_group_of_one_gets_zero_and_so_does_an_invalid_answer(name: str) -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, float("nan")])
    group = torch.tensor([4, 4, 4, 4, 4, 9, 9])
    found = run(name, reward, group, torch.tensor([True] * 6 + [False]))
    assert found[5:].tolist() == [0.0, 0.0]
    assert found[:5].isfinite().all()
    assert found[:5].any()


@pytest.mark.parametrize("name", NAMES)
def test_an_invalid_answer_changes_nothing_for_the_others(name: str) -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]).double()
    group = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    length = torch.tensor([1.0, 2, 3, 4, 5, 6, 7]).double()
    without = run(name, reward, group, length=length)
    broken = torch.cat([reward, torch.tensor([float("nan")]).double()])
    found = run(
        name,
        broken,
        torch.cat([group, torch.tensor([1])]),
        torch.tensor([True] * 7 + [False]),
        torch.cat([length, torch.tensor([50.0]).double()]),
    )
    torch.testing.assert_close(found[:7], without)
    assert float(found[7]) == 0.0


@pytest.mark.parametrize("name", CENTRED_BY_GROUP)
def test_one_group_does_not_see_another(name: str) -> None:
    """Except through gpg's factor, which counts the groups that teach something."""
    first, group = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]).double(), torch.zeros(5, dtype=torch.long)
    second = torch.tensor([1.0, 0.0, 1.0]).double()
    both = run(name, torch.cat([first, second]), torch.cat([group, torch.ones(3, dtype=torch.long)]))
    torch.testing.assert_close(both[:5], run(name, first, group))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_row_order_does_not_matter(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    reward = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))).double()
    group = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    length = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))).double()
    order = torch.tensor(data.draw(st.permutations(range(n))))
    found = run(name, reward, group, valid, length)
    assert found.isfinite().all()
    assert not found[~valid].any()
    torch.testing.assert_close(
        run(name, reward[order], group[order], valid[order], length[order]), found[order]
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("pass_at_k",)])
@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6])
def test_finite_over_the_range(name: str, scale: float) -> None:
    reward = scale * torch.tensor([0.0, 1.0, 1.0 - 1e-7, 0.3])
    assert run(name, reward, torch.tensor([0, 0, 0, 0])).isfinite().all()


@pytest.mark.parametrize("method", [adv.group_relative, adv.rloo, adv.gpg])
def test_shifting_a_groups_rewards_changes_nothing(method: Callable[..., torch.Tensor]) -> None:
    reward = torch.tensor([1.0, 0.0, 3.0, 2.0, 2.5]).double()
    group = torch.tensor([0, 0, 0, 1, 1])
    shift = torch.tensor([5.0, -7.0]).double()[group]
    torch.testing.assert_close(method(reward + shift, group), method(reward, group))
