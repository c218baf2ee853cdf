"""Sampler against trainer: weights, masks, effective sample size, and an honest record."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.mismatch import (
    MismatchSettings,
    correct,
    effective_sample_size,
    off_policy_keep,
)


def batch_of(*log_ratios: list[float]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """One prompt token and then these actions per sequence; trainer's and sampler's log-probs."""
    rows = [Sequence((0, *range(len(r))), (False, *[True] * len(r))) for r in log_ratios]
    batch = Batch.pack(rows)
    gap = torch.tensor([x for r in log_ratios for x in (0.0, *r)], dtype=torch.float64)
    sample = -1.0 * batch.action.double()
    return batch, sample + gap, sample


LOG = math.log
CASE = ([LOG(0.5), LOG(3.0)], [LOG(4.0), LOG(1.0)])


def test_token_truncation_and_band_by_hand() -> None:
    batch, old, sample = batch_of(*CASE)
    tis = correct(old, sample, batch, high=2.0).weight
    assert tis.tolist() == pytest.approx([1, 0.5, 2.0, 1, 2.0, 1.0])
    icepop = correct(old, sample, batch, mode="mask", low=0.6, high=3.5)
    assert icepop.weight.tolist() == pytest.approx([1, 0.0, 3.0, 1, 0.0, 1.0])
    assert icepop.statistics["mismatch_touched"] == 0.5


def test_sequence_levels_by_hand() -> None:
    batch, old, sample = batch_of(*CASE)
    sequence = correct(old, sample, batch, level="sequence", mode="mask", high=3.0).weight
    assert sequence.tolist() == pytest.approx([1, 1.5, 1.5, 1, 0.0, 0.0])
    truncated = correct(old, sample, batch, level="sequence", high=3.0).weight
    assert truncated.tolist() == pytest.approx([1, 1.5, 1.5, 1, 3.0, 3.0])
    geometric = correct(old, sample, batch, level="geometric", mode="mask", low=0.5, high=1.4).weight
    assert geometric.tolist() == pytest.approx([1, 1.0, 1.0, 1, 0.0, 0.0])  # sqrt(1.5) in, sqrt(4) out


def test_what_is_reported_is_raw() -> None:
    batch, old, sample = batch_of(*CASE)
    loose = correct(old, sample, batch, high=100.0).statistics
    tight = correct(old, sample, batch, mode="mask", low=0.9, high=1.1).statistics
    for name in set(loose) - {"mismatch_touched"}:
        assert loose[name] == tight[name]
    assert loose["mismatch_ratio"] == pytest.approx((0.5 + 3 + 4 + 1) / 4)
    assert loose["mismatch_log_max"] == pytest.approx(LOG(4.0))
    ratios = torch.tensor([0.5, 3.0, 4.0, 1.0])
    assert loose["mismatch_kl"] == pytest.approx(float((ratios - 1 - ratios.log()).mean()), rel=1e-5)
    assert loose["mismatch_ess"] == pytest.approx(float(ratios.sum() ** 2 / (ratios**2).sum() / 4))


def test_importance_weighting_is_exact_by_enumeration() -> None:
    """Sum over all two-token sequences of the sampler: weighed by the sequence ratio, the trainer's mean."""
    p = torch.tensor([0.7, 0.3], dtype=torch.float64)
    q = torch.tensor([0.4, 0.6], dtype=torch.float64)
    rows = [Sequence((0, a, b), (False, True, True)) for a in (0, 1) for b in (0, 1)]
    batch = Batch.pack(rows)
    chosen = batch.ids.clamp(max=1)
    old, sample = p.log()[chosen] * batch.action, q.log()[chosen] * batch.action
    weight = correct(old, sample, batch, level="sequence", high=1e9).weight[batch.offsets[1:] - 1]
    score = torch.tensor([1.0, -2.0, 5.0, 0.5], dtype=torch.float64)
    under_q = torch.stack([q[a] * q[b] for a in (0, 1) for b in (0, 1)])
    under_p = torch.stack([p[a] * p[b] for a in (0, 1) for b in (0, 1)])
    torch.testing.assert_close((under_q * weight * score).sum(), (under_p * score).sum())


def test_missing_sampler_log_probs_count_as_no_correction_and_are_reported() -> None:
    batch, old, sample = batch_of([LOG(4.0), 0.3])
    sample[1] = float("nan")
    found = correct(old, sample, batch, high=2.0)
    assert found.weight[1] == 1.0
    assert found.statistics["mismatch_missing"] == 1.0
    assert all(math.isfinite(v) for v in found.statistics.values())


@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_finite_at_a_thousand_nats(gap: float, level: str, mode: str) -> None:
    batch, old, sample = batch_of([gap, 0.0], [0.0])
    for dtype in (torch.float32, torch.float64):
        found = correct(old.to(dtype), sample.to(dtype), batch, level=level, mode=mode, high=2.0)
        assert found.weight.isfinite().all()
        assert (found.weight <= 2.0).all()
        assert all(math.isfinite(v) for v in found.statistics.values())


def test_off_policy_mask_drops_only_bad_answers_that_drifted() -> None:
    # sequence 0 drifted by 0.5 nats per token, sequence 1 did not; advantages of both signs
    batch, logp, sample = batch_of([-0.9, -0.1], [0.1, -0.1])
    for a, kept in ((-1.0, [0.0, 1.0]), (1.0, [1.0, 1.0]), (0.0, [1.0, 1.0])):
        found = off_policy_keep(torch.full((6,), a), logp, sample, batch, threshold=0.3)
        assert found[batch.offsets[1:] - 1].tolist() == kept
    assert off_policy_keep(-torch.ones(6), logp, sample, batch, threshold=0.51)[1] == 1.0


def test_effective_sample_size() -> None:
    assert effective_sample_size(torch.zeros(7)) == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([0.0, -1000.0])) == pytest.approx(0.5)
    assert effective_sample_size(torch.tensor([1000.0, 1000.0])) == pytest.approx(1.0)
    assert effective_sample_size(torch.zeros(0)) == 0.0


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    level=st.sampled_from(["token", "sequence", "geometric"]),
    mode=st.sampled_from(["truncate", "mask"]),
    seed=st.integers(0, 1000),
)
def test_weights_do_not_depend_on_the_split_or_on_observations(
    lengths: list[int], level: str, mode: str, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    batch, old, sample = batch_of(*[torch.randn(n, generator=g).tolist() for n in lengths])
    whole = correct(old, sample, batch, level=level, mode=mode, low=0.5, high=2.0).weight
    order = list(range(batch.size))[::-1]
    for rows in ([i] for i in order):
        at = batch.tokens_of(rows)
        alone = correct(old[at], sample[at], batch.select(rows), level=level, mode=mode, low=0.5, high=2.0)
        torch.testing.assert_close(alone.weight, whole[at])
    rows = []
    for n in lengths:  # an observation after each action, with log-probs that must not be read
        rows.append(Sequence((0, *[1] * (2 * n)), (False, *[True, False] * n)))
    longer = Batch.pack(rows)
    spread = torch.full((longer.ids.numel(),), 50.0, dtype=torch.float64)
    spread[longer.action] = old[batch.action]
    there = torch.zeros_like(spread)
    there[longer.action] = sample[batch.action]
    found = correct(spread, there, longer, level=level, mode=mode, low=0.5, high=2.0).weight
    torch.testing.assert_close(found[longer.action], whole[batch.action])
    assert (found[~longer.action] == 1).all()


def test_settings_fill_the_streams() -> None:
    batch, old, sample = batch_of([-0.9, -0.1], [LOG(4.0), 0.0])
    batch = batch.with_streams(logp_sample=sample, advantage=-batch.action.double())
    filled, numbers = MismatchSettings(off_policy_threshold=0.3).apply(batch, old)
    assert torch.equal(filled.streams["logp_old"], old)
    assert filled.streams["importance"][1:3].tolist() == [0.0, 0.0]
    assert float(filled.streams["importance"][4]) == 2.0
    assert numbers["mismatch_dropped"] == 0.5
    assert filled.counts() == batch.counts()  # a masked token is still counted


def test_bounds_that_make_no_sense_are_refused() -> None:
    batch, old, sample = batch_of([0.1])
    with pytest.raises(UserError, match="changes nothing"):
        correct(old, sample, batch, high=None)
    with pytest.raises(UserError, match="not below"):
        correct(old, sample, batch, low=2.0, high=1.0)
