"""The flat batch: selection keeps rows whole, counts are global, errors are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.batch import Batch, sum_by_sequence
from rewardlab.core.types import Score, Sequence

rows = st.lists(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 99), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n - 1, max_size=n - 1),
        )
    ),
    min_size=1,
    max_size=6,
).map(lambda found: [Sequence(tuple(ids), (False, *action)) for ids, action in found])


@given(rows, st.data())
def test_select_is_pack_of_the_selected_rows(sequences: list[Sequence], data: st.DataObject) -> None:
    chosen = data.draw(st.permutations(range(len(sequences))).map(lambda p: p[: max(1, len(p) // 2)]))
    batch = Batch.pack(sequences, group=range(len(sequences)))
    part, expected = batch.select(chosen), Batch.pack([sequences[i] for i in chosen], group=chosen)
    for name in ("ids", "offsets", "action", "group", "version"):
        assert torch.equal(getattr(part, name), getattr(expected, name))


@given(rows)
def test_counts_of_a_split_add_up(sequences: list[Sequence]) -> None:
    batch = Batch.pack(sequences)
    parts = [batch.select([i]).counts() for i in range(batch.size)]
    for unit in ("token", "sequence"):
        assert sum(p[unit] for p in parts) == batch.counts()[unit]


@given(rows)
def test_sum_by_sequence(sequences: list[Sequence]) -> None:
    batch = Batch.pack(sequences)
    assert sum_by_sequence(batch.ids, batch).tolist() == [sum(s.ids) for s in sequences]


def test_weight_zero_is_not_counted() -> None:
    batch = Batch.pack([Sequence((1, 2, 3), (False, True, True)), Sequence((1, 2), (False, True))])
    batch = batch.with_streams(weight=torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
    assert batch.counts() == {"token": 1, "sequence": 1, "pair": 0}


def test_a_pair_cannot_be_cut() -> None:
    batch = replace(Batch.pack([Sequence((1,), (False,))] * 4), pairs=torch.tensor([[0, 1], [2, 3]]))
    assert batch.select([2, 3]).pairs.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="both members"):
        batch.select([1, 2])


def test_a_first_token_cannot_be_an_action() -> None:
    with pytest.raises(ValueError, match="no prefix"):
        Sequence((1, 2), (True, True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_is_finite_or_says_why_not(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Score(bad)
    with pytest.raises(ValueError, match="status"):
        Score(0.0, "error")
    assert Score.error("parser died").value is None
