"""Losses of reward heads: gradients, closed forms, range, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preference_batches import outputs, random_pairs
from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.reduction import Terms, reduce
from rewardlab.objectives.reward import (
    bradley_terry,
    ordinal,
    outcome,
    process,
    regression,
    sequence_weight,
    smoothed_label,
    yes_no,
)
from rewardlab.objectives.reward.pointwise import ordered

CUTS = torch.tensor([-1.0, 0.5, 1.2], dtype=torch.float64)


def batch_for(name: str, seed: int) -> tuple[Batch, Tensor]:
    """A batch with targets that suit the loss, and scores Float[N]."""
    batch, _ = random_pairs(seed)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch.size, generator=generator, dtype=torch.float64)
    target = torch.rand(batch.size, generator=generator, dtype=torch.float64)
    if name == "ordinal":
        target = torch.arange(batch.size).remainder(4).double()
    weight = batch.action * torch.linspace(0.5, 1.5, batch.size, dtype=torch.float64)[batch.seq]
    label = torch.rand(batch.ids.numel(), generator=generator, dtype=torch.float64)
    batch = replace(batch, reward=target).with_streams(weight=weight, step_label=label)
    return batch, scores


def loss_of(name: str, scores: Tensor, batch: Batch) -> Terms:
    out = Outputs(scores=scores)
    if name == "bradley_terry":
        return bradley_terry(out, batch, centring=0.05)
    if name == "regression":
        return regression(out, batch)
    if name == "outcome":
        return outcome(out, batch)
    return ordinal(out, batch, cutpoints=CUTS)


HEADS = ("bradley_terry", "regression", "outcome", "ordinal")


@pytest.mark.parametrize("name", HEADS)
def test_gradient_is_the_finite_difference(name: str) -> None:
    batch, scores = batch_for(name, 3)
    scores.requires_grad_()
    counts = batch.counts()
    assert torch.autograd.gradcheck(lambda s: reduce(loss_of(name, s, batch), counts), scores)
    gradient = torch.autograd.grad(reduce(loss_of(name, scores, batch), counts), scores)[0]
    assert (gradient != 0).all()


def test_gradients_of_process_yes_no_and_cutpoints() -> None:
    batch, scores = batch_for("ordinal", 4)
    tokens = torch.randn(batch.ids.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens.requires_grad_()
    counts = batch.counts()
    assert torch.autograd.gradcheck(lambda s: reduce(process(s, batch), counts), tokens)
    assert torch.autograd.gradcheck(lambda x: reduce(yes_no(outputs(x), batch), counts), tokens)
    raw = torch.tensor([-1.0, 0.2, -3.0], dtype=torch.float64, requires_grad=True)
    out = Outputs(scores=scores)
    assert torch.autograd.gradcheck(lambda r: reduce(ordinal(out, batch, cutpoints=ordered(r)), counts), raw)


@pytest.mark.parametrize("name", HEADS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 3))
def test_split_and_order_change_nothing(name: str, seed: int, cut: int) -> None:
    batch, scores = batch_for(name, seed)
    values = []
    for micros in ([list(range(8))], [list(range(2 * cut, 8)), list(range(2 * cut))]):
        x = scores.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for rows in micros:
            total = total + reduce(loss_of(name, x[rows], batch.select(rows)), batch.counts())
        values.append((total.detach(), torch.autograd.grad(total, x)[0]))
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("scale", [-1000.0, 1000.0])
def test_scores_of_a_thousand_are_finite_in_fp32(scale: float) -> None:
    for name in HEADS:
        batch, scores = batch_for(name, 1)
        x = torch.full_like(scores, scale, dtype=torch.float32)
        x[::2] = -scale
        x.requires_grad_()
        loss = reduce(loss_of(name, x, batch), batch.counts())
        assert torch.isfinite(loss), name
        assert torch.isfinite(torch.autograd.grad(loss, x)[0]).all(), name
    batch, _ = batch_for("process", 1)
    tokens = torch.full((batch.ids.numel(),), scale, requires_grad=True)
    loss = reduce(process(tokens, batch), batch.counts()) + reduce(
        yes_no(outputs(tokens), batch), batch.counts()
    )
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, tokens)[0]).all()


@pytest.mark.parametrize("name", ["regression", "outcome", "ordinal"])
def test_an_answer_without_trained_tokens_counts_for_nothing(name: str) -> None:
    batch, scores = batch_for(name, 2)
    weight = batch.streams["weight"].clone()
    weight[batch.seq == 3] = 0.0
    target = batch.reward
    assert target is not None
    masked = replace(batch, reward=torch.where(torch.arange(8) == 3, torch.nan, target))
    masked = masked.with_streams(weight=weight)
    x = scores.clone().requires_grad_()
    loss = reduce(loss_of(name, x, masked), masked.counts())
    assert torch.autograd.grad(loss, x)[0][3] == 0
    others = [i for i in range(8) if i != 3]
    rest = replace(batch, pairs=batch.pairs[:0], pair_streams={}).select(others)
    expected = reduce(loss_of(name, scores[others], rest), rest.counts())
    torch.testing.assert_close(loss.detach(), expected)


def test_an_answers_weight_is_the_mean_over_its_trained_tokens() -> None:
    batch = Batch.pack([Sequence((1, 2, 3), (False, True, True)), Sequence((1, 2), (False, True))])
    batch = batch.with_streams(weight=torch.tensor([9.0, 1.0, 3.0, 9.0, 0.0]))
    assert sequence_weight(batch, torch.zeros(2)).tolist() == [2.0, 0.0]


def test_ordinal_probabilities_add_up_and_two_levels_are_the_logistic_loss() -> None:
    batch = Batch.pack([Sequence((1, 2), (False, True))] * 4)
    score = torch.full((4,), 0.3, dtype=torch.float64)
    total = 0.0
    for level in range(4):
        one = replace(batch, reward=torch.full((4,), float(level))).select([0])
        total += math.exp(-float(ordinal(Outputs(scores=score[:1]), one, cutpoints=CUTS)["ordinal"].total))
    assert total == pytest.approx(1.0)
    binary = replace(batch, reward=torch.tensor([0.0, 1.0, 1.0, 0.0]))
    left = ordinal(Outputs(scores=score), binary, cutpoints=torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(left["ordinal"].total, outcome(Outputs(scores=score), binary)["outcome"].total)


def test_process_is_a_mean_over_labelled_steps_only() -> None:
    batch = Batch.pack([Sequence((1, 2, 3, 4), (False, True, True, True))])
    batch = batch.with_streams(
        weight=torch.tensor([0.0, 0.0, 1.0, 1.0]), step_label=torch.tensor([torch.nan, torch.nan, 1.0, 0.0])
    )
    scores = torch.tensor([5.0, 5.0, 2.0, 1.0])
    terms = process(scores, batch)
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    assert float(reduce(terms, batch.counts())) == pytest.approx(expected)
    assert float(terms["accuracy"].total) == 1.0


def test_yes_no_is_the_cross_entropy_of_two_renormalised_tokens() -> None:
    yes, no = 0.3, 0.1
    batch = Batch.pack([Sequence((5, 1), (False, True)), Sequence((5, 2), (False, True))])
    batch = replace(batch, pairs=torch.tensor([[0, 1]]), pair_streams={"label": torch.tensor([0.2])})
    logp = torch.tensor([0.0, math.log(yes), 0.0, math.log(no)])
    p = yes / (yes + no)
    terms = yes_no(outputs(logp), batch)
    assert float(terms["yes_no"].total) == pytest.approx(-0.2 * math.log(p) - 0.8 * math.log(1 - p))
    assert float(terms["accuracy"].total) == 0.0


@settings(deadline=None, max_examples=20)
@given(label=st.floats(0, 1), gap=st.floats(-20, 20), rate=st.floats(0, 1), epochs=st.integers(1, 8))
def test_smoothed_labels_move_to_the_models_probability(
    label: float, gap: float, rate: float, epochs: int
) -> None:
    """The fixed point is the model's own probability; the distance shrinks by 1 - rate per epoch."""
    model = torch.tensor([gap], dtype=torch.float64, requires_grad=True)
    found = torch.tensor([label], dtype=torch.float64)
    for _ in range(epochs):
        found = smoothed_label(found, model, rate=rate)
    target = 1 / (1 + math.exp(-gap))
    assert not found.requires_grad
    assert float(found - target) == pytest.approx((label - target) * (1 - rate) ** epochs, abs=1e-12)


def test_bad_targets_are_refused_by_name() -> None:
    batch = replace(Batch.pack([Sequence((1, 2), (False, True))]), reward=torch.tensor([1.5]))
    out = Outputs(scores=torch.zeros(1))
    with pytest.raises(UserError, match="whole number from 0 to 3"):
        ordinal(out, batch, cutpoints=CUTS)
    with pytest.raises(UserError, match="outcome: a label is outside"):
        outcome(out, batch)
    with pytest.raises(UserError, match="must increase"):
        ordinal(out, replace(batch, reward=torch.ones(1)), cutpoints=CUTS.flip(0))
    with pytest.raises(UserError, match="rate"):
        smoothed_label(torch.ones(1), torch.zeros(1), rate=1.5)
