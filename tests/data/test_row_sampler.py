"""Row order is a pure function of the step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.data.sampler import RowSampler


@given(rows=st.integers(1, 40), per_step=st.integers(1, 50), seed=st.integers(0, 99), step=st.integers(0, 30))
def test_a_step_is_the_same_whenever_it_is_asked(rows: int, per_step: int, seed: int, step: int) -> None:
    walked = RowSampler(rows, per_step, seed)
    for earlier in range(step):
        walked.indices(earlier)
    assert walked.indices(step) == RowSampler(rows, per_step, seed).indices(step)


@given(rows=st.integers(1, 30), per_step=st.integers(1, 50), epochs=st.integers(1, 4))
def test_every_row_is_seen_equally_often(rows: int, per_step: int, epochs: int) -> None:
    sampler = RowSampler(rows, per_step, seed=1)
    seen = [i for step in range(rows * epochs) for i in sampler.indices(step)]
    counts = Counter(seen[: rows * epochs])
    assert set(counts.values()) == {epochs}
    assert len(counts) == rows


def test_seeds_differ() -> None:
    assert RowSampler(50, 50, 0).indices(0) != RowSampler(50, 50, 1).indices(0)


def test_no_rows_is_a_user_error() -> None:
    with pytest.raises(UserError, match="cannot fill"):
        RowSampler(0, 4, 0)
