"""Distillation: exact gradients, limits and bounds of the divergences, slices, parity with TRL."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trl.experimental.gkd.gkd_trainer import GKDTrainer

from objectives.random_batch import Loss, V, masks, outputs, random_batch, random_logits, step_gradient
from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.distillation import distil, teach_failures, teacher_advantage, teacher_kl
from rewardlab.objectives.divergence import (
    Divergence,
    Tail,
    close_slice,
    divergence,
    generalised_jsd,
    log_rest,
)
from rewardlab.objectives.reduction import reduce

KINDS: list[Divergence] = ["forward_kl", "reverse_kl", "jsd"]
TAILS: list[Tail] = ["bucket", "truncate", "renormalise"]
ALLOWED = [(k, t) for k in KINDS for t in TAILS if (k, t) != ("reverse_kl", "truncate")]
ESTIMATORS = ["k2", "k3", "k3+"]


def of(kind: Divergence, tail: Tail = "bucket") -> Loss:
    return lambda out, batch: distil(out, batch, kind=kind, beta=0.3, tail=tail)


def distributions(seed: int, rows: int = 5, width: int = V) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, width, generator=generator, dtype=torch.float64) * 2
    student, teacher = x.log_softmax(-1)
    return student, teacher


@pytest.mark.parametrize(("kind", "tail"), ALLOWED)
@pytest.mark.parametrize("k", [None, 3])
def test_gradient_is_that_of_the_value(kind: Divergence, tail: Tail, k: int | None) -> None:
    batch = random_batch([(False, True, True, False, True), (False, True), (False, False)], seed=3, k=k)
    counts = batch.counts()
    assert torch.autograd.gradcheck(
        lambda x: reduce(of(kind, tail)(outputs(x, batch), batch), counts), random_logits(batch, 3)
    )


def test_gradient_of_teacher_kl_is_that_of_its_value_without_importance() -> None:
    batch = random_batch([(False, True, True, False, True), (False, True)], seed=4)
    for estimator in ("k2", "k3"):
        assert torch.autograd.gradcheck(
            lambda x, e=estimator: reduce(
                teacher_kl(outputs(x, batch), batch, estimator=e, importance=False), batch.counts()
            ),
            random_logits(batch, 4),
        )


@settings(deadline=None, max_examples=25)
@given(
    rows=masks,
    seed=st.integers(0, 1000),
    choice=st.sampled_from([*ALLOWED, *ESTIMATORS]),
    k=st.sampled_from([None, 1, 3]),
    data=st.data(),
)
def test_split_and_order_never_change_a_gradient(
    rows: list[tuple[bool, ...]],
    seed: int,
    choice: tuple[Divergence, Tail] | str,
    k: int,
    data: st.DataObject,
) -> None:
    batch = random_batch(rows, seed, k=k)
    logits = random_logits(batch, seed)

    def loss(out, micro):  # type: ignore[no-untyped-def]
        if isinstance(choice, tuple):
            return of(*choice)(out, micro)
        return teacher_kl(out, micro, coefficient=0.5, estimator=choice, aggregation="sequence")

    whole = step_gradient(loss, batch, logits, [list(range(batch.size))])
    order = data.draw(st.permutations(range(batch.size)))
    cut = data.draw(st.integers(0, batch.size))
    split = [part for part in (list(order[:cut]), list(order[cut:])) if part]
    torch.testing.assert_close(step_gradient(loss, batch, logits, split), whole, atol=1e-14, rtol=1e-10)


@pytest.mark.parametrize(("kind", "beta"), [("forward_kl", 0), ("jsd", 0.1), ("jsd", 0.5), ("reverse_kl", 1)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_values_and_gradients_are_trls(kind: Divergence, beta: float, temperature: float) -> None:
    """GKDTrainer of trl 1.16.0; its beta 0 and 1 are the two KLs."""
    batch = random_batch([(False, True, True), (False, True)], seed=5)
    batch.streams.pop("weight")
    student = random_logits(batch, 5)
    teacher = batch.action_streams["slice_logp"]
    theirs = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    at_temperature = replace(batch, action_streams={"slice_logp": teacher / temperature})  # logits will do
    ours = distil(outputs(student / temperature, batch), at_temperature, kind=kind, beta=beta)["distil"].total
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-7)
    (a,), (b,) = torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), beta=st.floats(0.01, 0.99))
def test_divergences_are_zero_at_equality_positive_elsewhere_and_jsd_is_bounded(
    seed: int, beta: float
) -> None:
    student, teacher = distributions(seed)
    for kind in KINDS:
        assert divergence(student, student, kind, beta).abs().max() < 1e-14
        assert (divergence(student, teacher, kind, beta) > 0).all()
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert (generalised_jsd(student, teacher, beta) <= bound).all()
    mirrored = generalised_jsd(teacher, student, 1 - beta)
    torch.testing.assert_close(generalised_jsd(student, teacher, beta), mirrored, atol=1e-14, rtol=1e-10)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_jsd_over_beta_tends_to_the_two_kls(kind: Divergence) -> None:
    """beta -> 0 and beta -> 1; a hundred times closer to the end, more than ten times closer to the limit."""
    student, teacher = distributions(0)
    limit = divergence(student, teacher, kind)
    errors = []
    for gap in (1e-3, 1e-5, 1e-7):
        beta = gap if kind == "forward_kl" else 1 - gap
        errors.append(float((generalised_jsd(student, teacher, beta) / gap - limit).abs().max()))
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10
    assert errors[2] < 1e-4


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS), tail=st.sampled_from(TAILS))
def test_a_slice_of_all_tokens_in_any_order_is_the_whole_vocabulary(
    seed: int, kind: Divergence, tail: Tail
) -> None:
    """Tolerance 1e-9: the bucket's rest, known only to 1e-16, adds at most a few 1e-16 times its log."""
    if (kind, tail) == ("reverse_kl", "truncate"):
        return
    whole = random_batch([(False, True, True), (False, True)], seed)
    top = random_batch([(False, True, True), (False, True)], seed, k=V)
    logits = random_logits(whole, seed)
    split = [[0, 1]]
    expected = reduce(of(kind)(outputs(logits, whole), whole), whole.counts())
    found = reduce(of(kind, tail)(outputs(logits, top), top), top.counts())
    assert found.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(
        step_gradient(of(kind, tail), top, logits, split),
        step_gradient(of(kind), whole, logits, split),
        atol=1e-9,
        rtol=1e-9,
    )


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_the_bucket_never_exceeds_the_whole_and_grows_with_k(seed: int, kind: Divergence) -> None:
    student, teacher = distributions(seed)
    order = teacher.argsort(-1, descending=True)
    found = []
    for k in range(1, V):
        ids = order[:, :k]
        found.append(
            divergence(*close_slice(student.gather(-1, ids), teacher.gather(-1, ids), "bucket"), kind)
        )
    found.append(divergence(student, teacher, kind))
    for smaller, larger in pairwise(found):
        assert (smaller <= larger + 1e-9).all()  # the rest is 1 - sum, which loses digits where it is small


def test_truncation_by_hand() -> None:
    """Teacher (.6, .2 | .2), slice of two: renormalised (.75, .25); student (.5, .25 | .25)."""
    teacher, student = torch.tensor([[0.6, 0.2]]).log(), torch.tensor([[0.5, 0.25]]).log()
    truncated = divergence(*close_slice(student, teacher, "truncate"), "forward_kl")
    assert truncated.item() == pytest.approx(0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.25))
    renormalised = divergence(*close_slice(student, teacher, "renormalise"), "forward_kl")
    assert renormalised.item() == pytest.approx(
        0.75 * math.log(0.75 / (2 / 3)) + 0.25 * math.log(0.25 / (1 / 3)), abs=1e-6
    )
    bucket = divergence(*close_slice(student, teacher, "bucket"), "forward_kl")
    assert bucket.item() == pytest.approx(
        0.6 * math.log(0.6 / 0.5) + 0.2 * math.log(0.2 / 0.25) + 0.2 * math.log(0.2 / 0.25), abs=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", TAILS)
def test_extreme_distributions_stay_finite(kind: Divergence, tail: Tail, dtype: torch.dtype) -> None:
    """Student and teacher sure of different tokens, log-probs of -1000; and one-sided slices."""
    sharp = torch.full((2, 4), -1e3, dtype=dtype)
    sharp[0, 0] = sharp[1, 1] = 0.0
    teacher = sharp.flip(0)
    logits = sharp.clone().requires_grad_()
    student = logits.log_softmax(-1)
    if (kind, tail) == ("reverse_kl", "truncate"):
        return
    value = divergence(*close_slice(student, teacher, tail), kind, 0.3)
    (found,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(value).all()
    assert torch.isfinite(found).all()
    assert (value > 0.1).all()


def test_padding_of_short_slices_adds_nothing() -> None:
    student, teacher = distributions(1)
    padded = torch.cat([teacher[:, :3], torch.full((5, 2), -torch.inf, dtype=torch.float64)], -1)
    for tail in ("truncate", "renormalise"):
        short, longer = teacher[:, :3], student[:, :5]
        if tail == "renormalise":
            longer = torch.cat([student[:, :3], torch.full((5, 2), -1e3, dtype=torch.float64)], -1)
        a = divergence(*close_slice(student[:, :3], short, tail), "forward_kl")
        b = divergence(*close_slice(longer, padded, tail), "forward_kl")
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_the_rest_of_a_slice_by_hand() -> None:
    assert log_rest(torch.tensor([[0.5, 0.25]]).log()).exp().item() == pytest.approx(0.25)
    assert math.isfinite(log_rest(torch.tensor([[0.5, 0.5]]).log()).item())


def test_teacher_advantage_discounts_over_actions_only() -> None:
    """Differences 1, 2, 4 at three actions with a tool's output in between."""
    rows = [Sequence((0,) * 6, (False, True, False, False, True, True)), Sequence((0, 0), (False, True))]
    batch = Batch.pack(rows)
    logp = torch.tensor([9.0, -1.0, 9.0, 9.0, -2.0, -4.0, 9.0, -3.0])
    teacher = torch.tensor([5.0, 0.0, math.nan, 5.0, 0.0, 0.0, 5.0, 0.0])
    expected = {0.0: [1, 2, 4, 3], 0.5: [1 + 1 + 1, 2 + 2, 4, 3], 1.0: [7, 6, 4, 3]}
    for discount, values in expected.items():
        found = teacher_advantage(logp, teacher, batch, discount=discount)
        assert found[batch.action].tolist() == pytest.approx(values)
        assert torch.all(found[~batch.action] == 0)


def test_teacher_kl_reads_its_own_weight_and_the_step_still_counts_every_token() -> None:
    batch = random_batch([(False, True, True)], seed=7)
    batch = batch.with_streams(
        weight=torch.ones(3).double(), teacher_weight=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    )
    out = outputs(random_logits(batch, 7), batch)
    assert out.logp is not None
    loss = reduce(teacher_kl(out, batch, importance=False), batch.counts())
    gap = (out.logp - batch.streams["logp_teacher"])[2].item()
    assert loss.item() == pytest.approx(0.5 * gap**2 / 2)


def test_the_teacher_teaches_failures_only() -> None:
    reward = torch.tensor([0.0, 1.0, 0.0, 0.0, math.nan])
    group = torch.tensor([3, 3, 8, 8, 8])
    assert teach_failures(reward, group, solved=1.0).tolist() == [1, 0, 1, 1, 1]
    assert teach_failures(reward, group, solved=1.0, level="group").tolist() == [0, 0, 1, 1, 1]


def test_mass_inside_the_slice_is_reported() -> None:
    batch = random_batch([(False, True, True)], seed=2, k=2)
    batch = batch.with_streams(weight=torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    out = outputs(random_logits(batch, 2), batch)
    terms = distil(out, batch)
    teacher = batch.action_streams["slice_logp"].exp().sum(-1)[0]
    assert terms["teacher_mass"].total.item() == pytest.approx(teacher.item())
    assert terms["teacher_mass"].coefficient == 0.0


def test_a_step_without_trained_tokens_is_zero() -> None:
    batch = random_batch([(False, True), (False, False)], seed=0, k=2)
    batch = batch.with_streams(weight=torch.zeros(4, dtype=torch.float64))
    out = outputs(random_logits(batch, 0), batch)
    assert reduce(distil(out, batch) | teacher_kl(out, batch), batch.counts()).item() == 0.0


def test_wrong_input_is_refused_with_a_way_out() -> None:
    batch = random_batch([(False, True, True)], seed=1, k=2)
    out = outputs(random_logits(batch, 1), batch)
    with pytest.raises(UserError, match="both excluded"):
        distil(out, batch, kind="jsd", beta=1.0)
    with pytest.raises(UserError, match="infinite"):
        distil(out, batch, kind="reverse_kl", tail="truncate")
    logits = replace(batch, action_streams={**batch.action_streams, "slice_logp": torch.full((2, 2), 5.0)})
    with pytest.raises(UserError, match="not log-probs"):
        distil(out, logits)
    with pytest.raises(UserError, match="zero expected gradient"):
        teacher_kl(out, batch, estimator="k1")
    impossible = batch.with_streams(logp_teacher=torch.full((3,), -torch.inf, dtype=torch.float64))
    impossible.streams.pop("weight")
    with pytest.raises(UserError, match="not finite"):
        teacher_kl(out, impossible)
    with pytest.raises(UserError, match="discount"):
        teacher_advantage(torch.zeros(3), torch.zeros(3), batch, discount=1.5)
