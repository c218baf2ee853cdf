"""What must not matter to a preference loss: order, split, tokens that are not trained, who is called chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preference_batches import BCO_DELTA, CASES, outputs, random_pairs, ready
from rewardlab.core.batch import Batch, Outputs
from rewardlab.objectives.preference import PreferenceSettings, kl_baseline, kto, match, preference, tdpo
from rewardlab.objectives.reduction import reduce

EVERY_CASE = pytest.mark.parametrize("name", CASES)


def value_and_gradient(
    logp: Tensor, batch: Batch, knobs: PreferenceSettings, micros: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """The loss over these micro-batches (of sequence indices) and its gradient in the log-probs."""
    logp = logp.clone().requires_grad_()
    total, counts = torch.zeros((), dtype=torch.float64), batch.counts()
    for rows in micros:
        terms = preference(
            outputs(logp[batch.tokens_of(rows)]), batch.select(rows), **knobs.knobs(), bco_delta=BCO_DELTA
        )
        total = total + reduce(terms, counts)
    return total.detach(), torch.autograd.grad(total, logp)[0]


def whole(logp: Tensor, batch: Batch, knobs: PreferenceSettings) -> tuple[Tensor, Tensor]:
    return value_and_gradient(logp, batch, knobs, [list(range(batch.size))])


@EVERY_CASE
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_split_and_order_of_pairs_change_nothing(name: str, seed: int, data: st.DataObject) -> None:
    knobs = CASES[name]
    batch, logp = ready(knobs, seed, pairs=5)
    order = data.draw(st.permutations(range(5)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 4), max_size=3)))
    groups = [order[a:b] for a, b in zip([0, *cuts], [*cuts, 5], strict=True)]
    pairs = batch.pairs.tolist()
    micros = [[i for p in group for i in pairs[p]] for group in groups]
    expected = whole(logp, batch, knobs)
    found = value_and_gradient(logp, batch, knobs, micros)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["aot", "ld_aot", "aot_unpaired"])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)))
def test_ranks_do_not_depend_on_the_order_of_pairs(name: str, seed: int, order: list[int]) -> None:
    knobs = CASES[name]
    batch, logp = random_pairs(seed, 5, plain=True)
    rows = [i for p in order for i in (2 * p, 2 * p + 1)]
    expected, gradient = whole(logp, match(batch, logp, loss=knobs.loss, tail=knobs.tail), knobs)
    moved = logp[batch.tokens_of(rows)]
    other, other_gradient = whole(
        moved, match(batch.select(rows), moved, loss=knobs.loss, tail=knobs.tail), knobs
    )
    torch.testing.assert_close(other, expected)
    torch.testing.assert_close(other_gradient, gradient[batch.tokens_of(rows)])


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_transport_equals_sorting_the_whole_batch(name: str) -> None:
    """Against the definition: sort both sides, compare those of equal rank."""
    knobs = CASES[name]
    batch, logp = random_pairs(7, 6, plain=True)
    logp.requires_grad_()
    ref = batch.streams["logp_ref"] * batch.action
    totals = torch.zeros(2, batch.size, dtype=torch.float64).index_add(1, batch.seq, torch.stack([logp, ref]))
    (pc, pr), (rc, rr) = totals[0][batch.pairs].unbind(1), totals[1][batch.pairs].unbind(1)
    if name == "aot":
        delta = (pc - pr).sort().values - (rc - rr).sort().values
    else:
        delta = (pc - rc).sort().values - (pr - rr).sort().values
    expected = -torch.nn.functional.logsigmoid(knobs.beta * delta).mean()
    found, gradient = whole(logp.detach(), match(batch, logp, loss=knobs.loss, tail=knobs.tail), knobs)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logp)[0] * batch.action)


def swapped(batch: Batch) -> Batch:
    """The same pairs with the names of the answers exchanged."""
    streams = dict(batch.pair_streams)
    streams["label"] = 1 - streams.get("label", torch.ones(batch.pairs.shape[0], dtype=torch.float64))
    if "margin" in streams:
        streams["margin"] = -streams["margin"]
    return replace(batch, pairs=batch.pairs.flip(1), pair_streams=streams)


@EVERY_CASE
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 10_000))
def test_exchanging_the_answers_and_the_label_changes_nothing(name: str, seed: int) -> None:
    knobs = CASES[name]
    batch, logp = random_pairs(seed, plain="aot_unpaired" in knobs.loss)
    other = swapped(batch)
    if knobs.needs_whole_step:
        batch, other = (
            match(batch, logp, loss=knobs.loss, tail=knobs.tail),
            match(other, logp, loss=knobs.loss, tail=knobs.tail),
        )
    torch.testing.assert_close(whole(logp, other, knobs), whole(logp, batch, knobs))


@EVERY_CASE
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 10_000), copies=st.integers(1, 3))
def test_tokens_that_are_not_actions_change_nothing(name: str, seed: int, copies: int) -> None:
    """Longer prompts and inserted observations, whatever the streams hold there."""
    knobs = CASES[name]
    batch, logp = ready(knobs, seed)
    repeats = torch.where(batch.action, 1, 1 + copies)
    index = torch.arange(repeats.numel()).repeat_interleave(repeats)
    lengths = torch.zeros(batch.size, dtype=torch.long).index_add(0, batch.seq, repeats)
    longer = replace(
        batch,
        ids=batch.ids[index],
        action=batch.action[index],
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        streams={k: torch.where(batch.action[index], v[index], 77.0) for k, v in batch.streams.items()},
    )
    expected, gradient = whole(logp, batch, knobs)
    found, other = whole(logp[index], longer, knobs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(other[longer.action], gradient[batch.action])
    assert (other[~longer.action] == 0).all()


@EVERY_CASE
def test_a_pairs_weight_multiplies_its_loss_and_not_the_count(name: str) -> None:
    knobs = CASES[name]
    batch, logp = ready(knobs, seed=11, plain=True)
    pairs = batch.pairs.shape[0]
    double = {**batch.pair_streams, "weight": torch.full((pairs,), 2.0, dtype=torch.float64)}
    first, _ = whole(logp, batch, knobs)
    second, _ = whole(logp, replace(batch, pair_streams=double), knobs)
    torch.testing.assert_close(second, 2 * first)
    silent = torch.ones(pairs, dtype=torch.float64)
    silent[1] = 0.0
    _, gradient = whole(logp, replace(batch, pair_streams={**batch.pair_streams, "weight": silent}), knobs)
    members = torch.isin(batch.seq, batch.pairs[1])
    assert (gradient[members] == 0).all()
    assert (gradient[batch.action & ~members] != 0).any()


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 3), variant=st.sampled_from([1, 2]))
def test_tdpo_does_not_depend_on_the_split(seed: int, cut: int, variant: Literal[1, 2]) -> None:
    batch, logp = random_pairs(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (int(batch.action.sum()), 5)
    full = torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    reference = torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    batch = replace(batch, action_streams={"slice_logp": reference})
    owner = batch.seq[batch.action]
    values = []
    for micros in ([list(range(8))], [list(range(2 * cut, 8)), list(range(2 * cut))]):
        total = torch.zeros((), dtype=torch.float64)
        for rows in micros:
            part = torch.cat([full[owner == i] for i in rows])
            out = Outputs(logp=logp[batch.tokens_of(rows)], slice_logp=part)
            terms = tdpo(out, batch.select(rows), beta=0.3, variant=variant)
            total = total + reduce(terms, batch.counts())
        values.append(total)
    torch.testing.assert_close(values[0], values[1])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 7))
def test_kto_does_not_depend_on_the_split(seed: int, cut: int) -> None:
    batch, logp = random_pairs(seed, plain=True)
    flags = torch.tensor([1.0, 0.0] * 4, dtype=torch.float64)
    baseline = kl_baseline(logp, batch)
    batch = replace(
        batch, parts={"desirable": flags, "kl_baseline": baseline.expand(8)}, pairs=batch.pairs[:0]
    )
    batch = replace(batch, pair_streams={})
    values = []
    for micros in ([list(range(8))], [list(range(cut)), list(range(cut, 8))]):
        x = logp.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for rows in micros:
            terms = kto(outputs(x[batch.tokens_of(rows)]), batch.select(rows), beta=0.3)
            total = total + reduce(terms, batch.counts())
        values.append((total.detach(), torch.autograd.grad(total, x)[0]))
    torch.testing.assert_close(values[0], values[1])
