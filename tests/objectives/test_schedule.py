"""Schedules and gates of hybrid training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.reduction import Term, over, reduce, statistic
from rewardlab.objectives.schedule import (
    Branch,
    Gate,
    Level,
    Ramp,
    gate_weights,
    hint_length,
    mix,
    most_uncertain,
    on,
    prefix_length,
    value,
)
from rewardlab.objectives.supervised import nll

CHORD = Ramp(start=0.0, peak=0.9, warmup_steps=10, decay_steps=40, end=0.05)


def test_chords_mu_warms_up_linearly_and_falls_on_a_cosine() -> None:
    assert value(CHORD, 0) == 0.0
    assert value(CHORD, 5) == pytest.approx(0.45)
    assert value(CHORD, 10) == pytest.approx(0.9)
    assert value(CHORD, 30) == pytest.approx((0.9 + 0.05) / 2)
    assert value(CHORD, 20) == pytest.approx(0.05 + 0.85 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert value(CHORD, 50) == value(CHORD, 10_000) == 0.05


def test_ufts_probability_ends_and_kdrls_coefficient_is_linear() -> None:
    uft = Ramp(peak=0.95, decay_steps=300, end=0.05, after=0.0)
    assert value(uft, 0) == pytest.approx(0.95)
    assert value(uft, 299) == pytest.approx(0.05, abs=1e-3)
    assert value(uft, 300) == 0.0
    kdrl = Ramp(peak=5e-3, decay_steps=100, end=1e-3, shape="linear")
    assert value(kdrl, 25) == pytest.approx(4e-3)


def test_a_number_is_a_constant_and_a_bare_ramp_too() -> None:
    assert [value(0.3, s) for s in (0, 7)] == [0.3, 0.3]
    assert [value(Ramp(peak=0.3), s) for s in (0, 7)] == [0.3, 0.3]


@given(
    peak=st.floats(-2, 2),
    start=st.floats(-2, 2) | st.none(),
    end=st.floats(-2, 2),
    warmup=st.integers(0, 9),
    hold=st.integers(0, 9),
    decay=st.integers(0, 9),
    shape=st.sampled_from(["cosine", "linear"]),
    step=st.integers(0, 40),
)
def test_a_ramp_stays_between_its_values(
    peak: float, start: float | None, end: float, warmup: int, hold: int, decay: int, shape: str, step: int
) -> None:
    ramp = Ramp(peak=peak, start=start, end=end, warmup_steps=warmup, hold_steps=hold, decay_steps=decay,
                shape=shape)  # fmt: skip
    values = [peak, end, peak if start is None else start]
    assert min(values) - 1e-12 <= value(ramp, step) <= max(values) + 1e-12


def test_negative_lengths_and_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        Ramp(peak=1.0, warmup_steps=-1)
    with pytest.raises(ValidationError):
        Ramp(peak=1.0, valley=0.1)  # type: ignore[call-arg]


def test_a_mixture_is_the_weighted_sum_and_reports_each_loss_at_its_own_size() -> None:
    parts = {
        "rl": {"pg": Term(torch.tensor(6.0), "token"), "kl_loss": Term(torch.tensor(4.0), "token", 0.5)},
        "sft": {"nll": Term(torch.tensor(9.0), "sequence"), "seen": statistic(torch.tensor(2.0), "token")},
    }
    mixed = mix(parts, {"rl": 0.7, "sft": 0.3})
    assert sorted(mixed) == ["rl/kl_loss", "rl/pg", "sft/nll", "sft/seen"]
    loss = reduce(mixed, {"token": 2, "sequence": 3, "pair": 0})
    assert float(loss) == pytest.approx(0.7 * (3.0 + 0.5 * 2.0) + 0.3 * 3.0)
    assert float(mixed["sft/nll"].total) == 9.0
    with pytest.raises(UserError, match="one weight per loss"):
        mix(parts, {"rl": 1.0})


def test_losses_on_parts_of_a_batch_share_its_count() -> None:
    """Two samples read by one loss and a demonstration read by another."""
    batch = Batch.pack([Sequence((0, 1), (False, True))] * 3).with_streams(
        weight_rl=torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0]),
        weight_sft=torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 2.0]),
    )
    out = Outputs(logp=torch.tensor([0.0, -1.0, 0.0, -2.0, 0.0, -4.0]))
    parts = {"rl": nll(out, on(batch, "weight_rl")), "sft": nll(out, on(batch, "weight_sft"))}
    assert float(reduce(mix(parts, {"rl": 1.0, "sft": 0.5}), batch.counts())) == pytest.approx((3 + 4) / 3)


def test_a_part_may_be_the_mean_over_its_own_rows_however_the_step_is_split() -> None:
    batch = Batch.pack([Sequence((0, 1, 2), (False, True, True))] * 3).with_streams(
        weight_rl=torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 0, 0]),
        weight_sft=torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 0.5, 0]),
    )
    logp = torch.tensor([0.0, -1, -2, 0, -3, 0, 0, -4, -5])
    counts = batch.counts()
    assert (counts["token"], counts["token", "weight_rl"], counts["sequence", "weight_rl"]) == (6, 3, 2)
    assert (counts["token", "weight_sft"], counts["sequence", "weight_sft"]) == (1, 1)
    for split in ([[0, 1, 2]], [[0], [1], [2]], [[2, 0], [1]]):
        loss = 0.0
        for rows in split:
            micro = batch.select(rows)
            out = Outputs(logp=logp[batch.tokens_of(rows)])
            parts = {p: over(nll(out, on(micro, f"weight_{p}")), f"weight_{p}") for p in ("rl", "sft")}
            loss += float(reduce(mix(parts, {"rl": 1.0, "sft": 1.0}), counts))
        assert loss == pytest.approx((1 + 2 + 3) / 3 + 0.5 * 4)


GROUP = torch.tensor([5, 5, 5, 2, 2, 2])
OWN = torch.tensor([True, True, False, True, True, False])


def test_hpt_trains_a_failed_prompt_on_its_demonstration_alone() -> None:
    correct = torch.tensor([False, False, True, True, False, True])  # a demonstration's own is not read
    rl, sft = gate_weights(correct, OWN, GROUP, Gate())
    assert rl.tolist() == [0, 0, 0, 1, 1, 0]
    assert sft.tolist() == [0, 0, 1, 0, 0, 0]


def test_ahpo_keeps_the_samples_and_soft_levels_take_the_first_that_holds() -> None:
    correct = torch.tensor([True, False, False, True, True, False])
    ahpo = Gate(levels=(Level(at_most=1, rl=1.0, sft=1.0),))
    assert [x.tolist() for x in gate_weights(correct, OWN, GROUP, ahpo)] == [
        [1, 1, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 0],
    ]
    soft = Gate(
        levels=(Level(at_most=2, rl=0.125, sft=0.5), Level(at_most=1, rl=0.0, sft=1.0)),
        above=Branch(rl=1.0, sft=0.0),
    )
    rl, sft = gate_weights(correct, OWN, GROUP, soft)
    assert rl.tolist() == [0, 0, 0, 0.125, 0.125, 0]
    assert sft.tolist() == [0, 0, 1, 0, 0, 0.5]


@given(st.integers(0, 10), st.integers(0, 400), st.integers(0, 1000))
def test_a_hint_is_a_part_of_the_demonstration_and_gone_at_the_end(chunks: int, step: int, seed: int) -> None:
    ramp = Ramp(peak=0.95, decay_steps=300, end=0.05, after=0.0)
    found = hint_length(step, chunks, ramp, np.random.default_rng(seed))
    assert 0 <= found <= chunks
    assert found == hint_length(step, chunks, ramp, np.random.default_rng(seed))
    if step >= 300:
        assert found == 0


def test_hints_have_the_binomial_mean() -> None:
    """2000 draws of Binomial(5, 0.6): mean 3, standard error 0.025; six of them are allowed."""
    generator = np.random.default_rng(0)
    draws = [hint_length(0, 5, 0.6, generator) for _ in range(2000)]
    assert np.mean(draws) == pytest.approx(3.0, abs=0.15)
    with pytest.raises(UserError, match="probability"):
        hint_length(0, 5, 1.2, generator)


@given(st.integers(0, 50), st.integers(0, 200), st.integers(0, 1000))
def test_a_prefix_leaves_the_policy_at_least_one_token(length: int, step: int, seed: int) -> None:
    low = Ramp(peak=0.95, decay_steps=100, end=0.05)
    found = prefix_length(step, length, low, 0.95, np.random.default_rng(seed))
    assert 0 <= found <= max(length - 1, 0)
    assert found >= math.floor(value(low, step) * length) - 1
    assert found <= 0.95 * length


def test_a_prefix_whose_bounds_cross_is_refused() -> None:
    with pytest.raises(UserError, match="low"):
        prefix_length(0, 10, 0.9, 0.5, np.random.default_rng(0))


def test_the_most_uncertain_prefix_tokens_are_chosen_in_every_sequence() -> None:
    batch = Batch.pack([Sequence((0,) * 6, (False,) * 6), Sequence((0,) * 3, (False,) * 3)])
    prefix = torch.tensor([False, True, True, True, True, True, False, True, False])
    entropy = torch.tensor([9.0, 0.1, 0.5, 0.5, 0.4, 0.5, 9.0, 0.0, 9.0])
    chosen = most_uncertain(entropy, prefix, batch, 0.4)
    assert chosen.nonzero().squeeze(-1).tolist() == [2, 3, 7]  # two of five, one of one; ties to the earlier
    assert not most_uncertain(entropy, prefix, batch, 0.0).any()
    assert torch.equal(most_uncertain(entropy, prefix, batch, 1.0), prefix)
    assert most_uncertain(entropy, prefix, batch, 0.2).sum() == 2
