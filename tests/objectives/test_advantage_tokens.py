"""Advantages per token: time runs over actions, and observations in between change nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch
from rewardlab.core.types import Sequence
from rewardlab.objectives.advantage import at_last_action, by_name, discounted_returns, gae, process


def pack(*flags: str, group: tuple[int, ...] = ()) -> Batch:
    """One sequence per string: `a` an action, anything else not."""
    rows = [Sequence(tuple(range(len(f))), tuple(c == "a" for c in f)) for f in flags]
    return Batch.pack(rows, group=group)


def plain_gae(r: list[float], v: list[float], gamma: float, lam: float, end: float = 0.0) -> list[float]:
    """The definition, as a double sum over the actions of one sequence."""
    values = [*v, end]
    delta = [r[k] + gamma * values[k + 1] - values[k] for k in range(len(r))]
    return [sum((gamma * lam) ** (j - k) * delta[j] for j in range(k, len(r))) for k in range(len(r))]


def test_gae_is_its_definition_over_actions_of_ragged_sequences() -> None:
    batch = pack("pa.aa", "paaaa", "pp", "p.a")
    g = torch.Generator().manual_seed(0)
    total = batch.ids.numel()
    reward = torch.randn(total, generator=g, dtype=torch.float64) * batch.action
    value = torch.randn(total, generator=g, dtype=torch.float64)
    end = torch.tensor([3.0, 2.0, 5.0, -1.0], dtype=torch.float64)
    advantage, returns = gae(reward, value, batch, gamma=0.9, lam=0.8, bootstrap=end)
    for i in range(batch.size):
        at = [t for t in range(total) if batch.seq[t] == i and batch.action[t]]
        expected = plain_gae(reward[at].tolist(), value[at].tolist(), 0.9, 0.8, float(end[i]))
        assert advantage[at].tolist() == pytest.approx(expected)
    torch.testing.assert_close(returns, advantage + value * batch.action)
    assert not advantage[~batch.action].any()


def test_lambda_one_is_return_minus_value_and_zero_the_one_step_error() -> None:
    batch = pack("paaa")
    reward = torch.tensor([0.0, 1.0, 0.0, 2.0])
    value = torch.tensor([9.0, 0.5, 0.25, 1.0])
    returns = discounted_returns(reward, batch, gamma=0.5)
    assert returns.tolist() == [0.0, 1.5, 1.0, 2.0]
    advantage, _ = gae(reward, value, batch, gamma=0.5, lam=1.0)
    torch.testing.assert_close(advantage, (returns - value) * batch.action)
    one_step, _ = gae(reward, value, batch, gamma=0.5, lam=0.0)
    assert one_step.tolist() == pytest.approx([0.0, 1 + 0.125 - 0.5, 0.5 - 0.25, 2 - 1.0])


def test_credit_does_not_decay_across_a_tools_output() -> None:
    near, far = pack("paa"), pack("pa......a")
    a = discounted_returns(torch.tensor([0.0, 0.0, 1.0]), near, gamma=0.5)
    b = discounted_returns(torch.tensor([0.0] * 8 + [1.0]), far, gamma=0.5)
    assert float(a[1]) == float(b[1]) == 0.5


def test_a_reward_on_an_observation_belongs_to_the_action_before_it() -> None:
    batch = pack("pa.a.", ".a")
    reward = torch.tensor([7.0, 0.0, 1.0, 0.0, 2.0, 9.0, 3.0])
    assert discounted_returns(reward, batch, gamma=0.5).tolist() == [0.0, 2.0, 0.0, 2.0, 0.0, 0.0, 3.0]


def test_an_outcome_stands_on_the_last_action() -> None:
    batch = pack("pa.a.", "pp", "pa")
    found = at_last_action(torch.tensor([1.0, 5.0, 2.0]), batch)
    assert found.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 2]
    assert at_last_action(torch.tensor([1.0]), pack("pp")).tolist() == [0, 0]


def test_process_advantages_by_hand() -> None:
    batch = pack("paaaa", "paa", "paa", group=(0, 0, 1))
    ends = torch.tensor([0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1]).bool()
    reward = torch.tensor([9.0, 0, 1.0, 0, 3.0, 0, 0, 2.0, 0, 0, 4.0]).double()
    found = process(reward, ends, batch, scale_by_std=False)
    assert found.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    scaled = process(reward, ends, batch)
    assert scaled[3:5].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    alone = process(reward, ends, batch, torch.tensor([True, False, True]), scale_by_std=False)
    assert alone.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not process(reward * 0 + 0.1, ends, batch).any()


def test_process_with_one_step_at_the_end_is_grpo() -> None:
    batch = pack("paa", "paaaa", "pa", group=(0, 0, 0))
    outcome = torch.tensor([1.0, 0.0, 4.0]).double()
    ends = at_last_action(torch.ones(3), batch) > 0
    found = process(at_last_action(outcome, batch), ends, batch)
    valid, length = torch.ones(3, dtype=torch.bool), torch.ones(3)
    whole = by_name("grpo_std", outcome, batch.group, valid, length)
    torch.testing.assert_close(found, whole[batch.seq] * batch.action)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_inserted_observations_change_no_estimator(data: st.DataObject) -> None:
    """The same actions, rewards and values with any observations put anywhere after the prompt."""
    rows = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    gaps = [data.draw(st.lists(st.integers(0, 3), min_size=n + 1, max_size=n + 1)) for n in rows]
    short = pack(*["p" + "a" * n for n in rows], group=(0,) * len(rows))
    flags = []
    for n, gap in zip(rows, gaps, strict=True):
        flags.append("p" + "." * gap[0] + "".join("a" + "." * gap[k + 1] for k in range(n)))
    long = pack(*flags, group=(0,) * len(rows))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    actions = int(short.action.sum())

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(actions, generator=g, dtype=torch.float64)
        out = []
        for batch in (short, long):
            noise = torch.zeros(batch.ids.numel(), dtype=torch.float64)
            noise[batch.action] = x
            out.append(noise)
        return out[0], out[1]

    reward, value = both(), both()
    ends = tuple(r.abs() > 0.5 for r in reward)
    outcome = torch.randn(len(rows), generator=g, dtype=torch.float64)
    found = []
    for i, batch in enumerate((short, long)):
        value_i = value[i] + (~batch.action) * 100.0  # what the critic says on observations is not read
        a, r = gae(reward[i], value_i, batch, gamma=0.9, lam=0.7)
        placed = discounted_returns(at_last_action(outcome, batch), batch, gamma=0.8)
        steps = process(reward[i], ends[i], batch)
        length = torch.bincount(batch.seq[batch.action], minlength=batch.size).double()
        valid = torch.ones(batch.size, dtype=torch.bool)
        whole = by_name("opo", outcome, batch.group, valid, length)[batch.seq]
        found.append([x[batch.action] for x in (a, r, placed, steps, whole)])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y)


def test_sequences_do_not_see_each_other() -> None:
    batch = pack("paaa", "paa")
    reward, value = torch.randn(7), torch.randn(7)
    together, _ = gae(reward, value, batch, gamma=0.9, lam=0.9)
    alone, _ = gae(reward[4:], value[4:], batch.select([1]), gamma=0.9, lam=0.9)
    torch.testing.assert_close(together[4:], alone)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_one_token_answers_and_large_values_are_finite(scale: float) -> None:
    batch = pack("pa")
    a, r = gae(scale * torch.ones(2), -scale * torch.ones(2), batch)
    assert a.tolist() == [0.0, 2 * scale]
    assert r.tolist() == [0.0, scale]
