"""Supervised losses: exact gradients, what they are equal to, what never changes them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives.random_batch import Loss, V, masks, outputs, random_batch, random_logits, step_gradient
from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.objectives.feasible import dual_update, feasible, sequence_nll
from rewardlab.objectives.reduction import reduce
from rewardlab.objectives.supervised import (
    anchored,
    label_smoothed,
    minor_sft,
    nll,
    probability_weighted,
    source_weights,
    token_weight,
)
from support import tiny_policy

LOSSES: dict[str, Loss] = {
    "nll": nll,
    "nll_sequence": lambda o, b: nll(o, b, aggregation="sequence"),
    "nll_constant": lambda o, b: nll(o, b, aggregation="constant", constant_length=5),
    "smoothed": lambda o, b: label_smoothed(o, b, smoothing=0.3),
    "power": lambda o, b: probability_weighted(o, b, power=0.7, detached=False),
    "bounds": lambda o, b: probability_weighted(o, b, power=0.0, at_least=0.1, at_most=0.6, detached=False),
    "anchor_k3": lambda o, b: anchored(o, b, coefficient=0.3, power=0.0, anchor="k3"),
    "anchor_forward": lambda o, b: anchored(o, b, coefficient=0.3, power=0.0),
    "anchor_reverse": lambda o, b: anchored(o, b, coefficient=0.3, power=0.0, anchor="reverse_kl"),
    "minor": lambda o, b: minor_sft(o, b, beta=0.4),
    "feasible": lambda o, b: feasible(o, b, tolerance=0.5),
}
DETACHED: dict[str, Loss] = {
    "dft": probability_weighted,
    "phi": lambda o, b: probability_weighted(o, b, complement=1.0, aggregation="sequence"),
    "asft": lambda o, b: anchored(o, b, coefficient=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_value(name: str) -> None:
    batch = random_batch([(False, True, True, False, True), (False, True), (False, False)], seed=3)
    logits = random_logits(batch, 3)
    counts = batch.counts()
    assert torch.autograd.gradcheck(lambda x: reduce(LOSSES[name](outputs(x, batch), batch), counts), logits)


@settings(deadline=None, max_examples=20)
@given(rows=masks, seed=st.integers(0, 1000), name=st.sampled_from([*LOSSES, *DETACHED]), data=st.data())
def test_split_and_order_never_change_a_gradient(
    rows: list[tuple[bool, ...]], seed: int, name: str, data: st.DataObject
) -> None:
    batch, loss = random_batch(rows, seed), (LOSSES | DETACHED)[name]
    logits = random_logits(batch, seed)
    whole = step_gradient(loss, batch, logits, [list(range(batch.size))])
    order = data.draw(st.permutations(range(batch.size)))
    cut = data.draw(st.integers(0, batch.size))
    split = [part for part in (list(order[:cut]), list(order[cut:])) if part]
    torch.testing.assert_close(step_gradient(loss, batch, logits, split), whole, atol=1e-14, rtol=1e-10)


@settings(deadline=None, max_examples=20)
@given(
    rows=masks,
    seed=st.integers(0, 1000),
    name=st.sampled_from([*LOSSES, *DETACHED]),
    where=st.integers(0, 100),
    count=st.integers(1, 4),
)
def test_inserted_tokens_that_are_no_actions_change_nothing(
    rows: list[tuple[bool, ...]], seed: int, name: str, where: int, count: int
) -> None:
    """A tool's output, or a longer prompt: the actions' numbers stay the same, and so does the loss."""
    batch, loss = random_batch(rows, seed), (LOSSES | DETACHED)[name]
    out = outputs(random_logits(batch, seed), batch)
    at = int(batch.offsets[0]) + 1 + where % int(batch.lengths[0])

    def stretch(x: Tensor, fill: float) -> Tensor:
        return torch.cat([x[:at], x.new_full((count,), fill), x[at:]])

    offsets = batch.offsets.clone()
    offsets[1:] += count
    wide = Batch(
        ids=stretch(batch.ids, 0),
        offsets=offsets,
        action=stretch(batch.action, False),
        streams={k: stretch(v, math.nan if k.startswith("logp") else 1.0) for k, v in batch.streams.items()},
        action_streams=batch.action_streams,
        group=batch.group,
        reward=batch.reward,
    )
    wide.streams["dual"] = batch.streams["dual"][batch.offsets[:-1]][wide.seq]
    assert out.logp is not None
    assert out.logp_mean is not None
    wide_out = Outputs(
        logp=stretch(out.logp, 0.0), logp_mean=stretch(out.logp_mean, 0.0), slice_logp=out.slice_logp
    )
    before = reduce(loss(out, batch), batch.counts())
    after = reduce(loss(wide_out, wide), wide.counts())
    assert after.item() == pytest.approx(before.item(), rel=1e-12, abs=1e-14)


def plain(rows: int = 3) -> tuple[Batch, Tensor]:
    """A batch without a weight stream, and logits of its actions."""
    batch = random_batch([(False, True, True, True)] * rows, seed=1)
    batch.streams.pop("weight")
    return batch, random_logits(batch, 1)


def test_label_smoothing_is_torchs() -> None:
    batch, logits = plain()
    ours = reduce(label_smoothed(outputs(logits, batch), batch, smoothing=0.15), batch.counts())
    theirs = F.cross_entropy(logits, batch.ids[batch.action], label_smoothing=0.15)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_the_engine_gives_the_mean_and_the_slices_that_losses_read() -> None:
    """In chunks and whole, against a plain forward pass."""
    model = tiny_policy()
    rows = [Sequence((5, 6, 7, 8), (False, True, False, True)), Sequence((9, 3, 4), (False, True, True))]
    batch = Batch.pack(rows).with_streams(temperature=torch.linspace(0.5, 2.0, 7))
    with torch.no_grad():
        each = [model.net(input_ids=torch.tensor([r.ids])).logits[0] for r in rows]
    previous = torch.cat([torch.cat([x[:1], x[:-1]]) for x in each])  # row t predicts token t
    expected = (previous / batch.streams["temperature"][:, None]).log_softmax(-1)
    at = batch.action
    out = Engine(model).logprobs(batch, mean=True, vocabulary=True)
    assert out.logp_mean is not None
    torch.testing.assert_close(out.logp_mean[at], expected.mean(-1)[at], atol=1e-4, rtol=1e-5)
    assert torch.all(out.logp_mean[~at] == 0)
    torch.testing.assert_close(out.slice_logp, expected[at], atol=1e-4, rtol=1e-5)
    top = expected[at].topk(4, dim=-1)
    part = Batch(batch.ids, batch.offsets, at, batch.streams, {"slice_ids": top.indices})
    found = Engine(model).logprobs(part, vocabulary=True).slice_logp
    torch.testing.assert_close(found, top.values, atol=1e-4, rtol=1e-5)


def test_chunks_of_the_head_do_not_change_mean_or_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_policy()
    batch = Batch.pack([Sequence(tuple(range(2, 14)), (False, *(True,) * 11))])
    batch = Batch(batch.ids, batch.offsets, batch.action, {}, {"slice_ids": torch.arange(55).view(11, 5)})

    def results() -> list[Tensor]:
        model.net.zero_grad()
        out = Engine(model).logprobs(batch, mean=True, vocabulary=True)
        assert out.logp_mean is not None
        assert out.slice_logp is not None
        (out.logp_mean.sum() + (out.slice_logp * torch.linspace(-1, 1, 5)).sum()).backward()
        grads = [p.grad.clone() for p in model.net.parameters() if p.grad is not None]
        return [out.logp_mean.detach(), out.slice_logp.detach(), *grads]

    whole = results()
    monkeypatch.setattr("rewardlab.models.head.LOGITS_PER_CHUNK", 900)
    for a, b in zip(results(), whole, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 3.0])
def test_the_detached_weight_and_the_integral_have_one_gradient(power: float) -> None:
    """d/dp (1 - p^a) / a = -p^(a - 1), so its gradient is p^a times that of the NLL."""
    batch, logits = plain()
    split = [list(range(batch.size))]
    first = step_gradient(lambda o, b: probability_weighted(o, b, power=power), batch, logits, split)
    second = step_gradient(
        lambda o, b: probability_weighted(o, b, power=power, detached=False), batch, logits, split
    )
    torch.testing.assert_close(first, second, atol=1e-15, rtol=1e-10)


def test_named_points_of_the_probability_family() -> None:
    logp = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64).log()
    assert token_weight(logp, power=1.0).tolist() == pytest.approx([0.2, 0.5, 0.9])  # DFT
    assert token_weight(logp, power=1.0, complement=1.0).tolist() == pytest.approx([0.16, 0.25, 0.09])
    assert token_weight(logp, complement=2.0).tolist() == pytest.approx([0.64, 0.25, 0.01])  # focal
    assert token_weight(logp, at_least=0.5).tolist() == [0.0, 1.0, 1.0]
    assert token_weight(logp, at_most=0.5).tolist() == [1.0, 1.0, 0.0]
    assert token_weight(logp).tolist() == [1.0, 1.0, 1.0]  # NLL


def test_dft_has_the_value_and_gradient_of_trls_formula() -> None:
    """-log p * sg(p) over the number of tokens, as SFTTrainer of trl 1.16.0 has it for loss_type="dft"."""
    batch, logits = plain()
    logp = logits.log_softmax(-1).gather(-1, batch.ids[batch.action, None]).squeeze(-1)
    theirs = (-logp * logp.exp().detach()).sum() / batch.counts()["token"]
    ours = reduce(probability_weighted(outputs(logits, batch), batch), batch.counts())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(a, b)


def test_minor_sft_is_sft_at_the_reference_and_lets_go_later() -> None:
    """Gradient = sequence-normalised NLL's, times 2 sigmoid(-beta D)."""
    batch, logits = plain(rows=1)
    out = outputs(logits, batch)
    assert out.logp is not None
    for change in (0.0, 0.8, -0.5):
        shifted = batch.with_streams(logp_ref=(out.logp.detach() - change) * batch.action)
        split = [[0]]
        found = step_gradient(lambda o, b: minor_sft(o, b, beta=0.5), shifted, logits, split)
        sft = step_gradient(lambda o, b: nll(o, b, aggregation="sequence"), shifted, logits, split)
        factor = 2 / (1 + math.exp(0.5 * 3 * change))
        torch.testing.assert_close(found, factor * sft, atol=1e-14, rtol=1e-10)
        assert float(minor_sft(out, shifted, beta=0.5)["deviation"].total) == pytest.approx(change, abs=1e-12)


def test_an_anchor_is_zero_at_the_reference_and_pulls_back_to_it() -> None:
    batch, logits = plain()
    out = outputs(logits, batch)
    assert out.logp is not None
    assert out.slice_logp is not None
    same = Batch(batch.ids, batch.offsets, batch.action, {"logp_ref": out.logp.detach()},
                 {"slice_logp": out.slice_logp.detach()})  # fmt: skip
    for anchor in ("k3", "forward_kl", "reverse_kl"):
        term = anchored(out, same, coefficient=0.1, anchor=anchor)["anchor"]
        assert term.coefficient == 0.1
        assert term.total.item() == pytest.approx(0.0, abs=1e-14)
        (found,) = torch.autograd.grad(term.total, logits, retain_graph=True)
        assert float(found.abs().max()) < 1e-14
        away = outputs(logits + 0.1 * torch.arange(V), batch)
        assert anchored(away, same, coefficient=0.1, anchor=anchor)["anchor"].total.item() > 1e-4


def test_duals_settle_at_relaxation_times_violation_and_fall_to_zero_when_feasible() -> None:
    loss = torch.tensor([0.9, 0.1, 0.5], dtype=torch.float64)
    dual = torch.tensor([0.0, 0.7, 0.2], dtype=torch.float64)
    for _ in range(60):
        dual = dual_update(dual, loss, tolerance=0.3, rate=0.5, relaxation=2.0)
    assert dual.tolist() == pytest.approx([2.0 * 0.6, 0.0, 2.0 * 0.2], abs=1e-6)
    plain_dual = dual_update(torch.zeros(3, dtype=torch.float64), loss, tolerance=0.3)
    assert plain_dual.tolist() == pytest.approx([0.6, 0.0, 0.2])
    broken = dual_update(torch.ones(2), torch.tensor([math.nan, math.inf]), tolerance=0.3)
    assert broken.tolist() == [1.0, 1.0]


def test_primal_and_dual_steps_bring_every_example_under_the_bound() -> None:
    """Two examples compete for one distribution; the mean loss alone would sacrifice the rarer one."""
    ids = [(0, 1)] * 5 + [(0, 2)]
    batch = Batch.pack([Sequence(i, (False, True)) for i in ids])
    logits = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    dual = torch.zeros(6, dtype=torch.float64)
    sgd = torch.optim.SGD([logits], lr=0.5)
    for _ in range(600):
        logp = logits.log_softmax(0)[batch.ids] * batch.action
        held = batch.with_streams(dual=dual[batch.seq])
        loss = reduce(feasible(Outputs(logp=logp), held, tolerance=0.8), batch.counts())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        dual = dual_update(dual, sequence_nll(Outputs(logp=logp), batch), tolerance=0.8, rate=0.1)
    final = sequence_nll(Outputs(logp=logits.detach().log_softmax(0)[batch.ids] * batch.action), batch)
    assert float(final.max()) < 0.85  # where the mean loss is least, the rare one is at log 6 = 1.79


def test_an_example_with_dual_zero_still_counts() -> None:
    batch = Batch.pack([Sequence((0, 1), (False, True))] * 2)
    batch = batch.with_streams(dual=torch.tensor([1.0, 1.0, 0.0, 0.0]))
    out = Outputs(logp=torch.tensor([0.0, -1.0, 0.0, -9.0]))
    loss = reduce(feasible(out, batch, tolerance=0), batch.counts())
    assert loss.item() == pytest.approx(0.5)


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_sources_get_their_share_whatever_their_size(per: str) -> None:
    rows = [(False, True, True, True), (False, True, True, True), (False, True)]
    batch = random_batch(rows, seed=2)
    batch.streams.pop("weight")
    source = torch.tensor([4, 4, 9])
    weight = source_weights(batch, source, {4: 0.25, 9: 0.75}, per=per)
    out = outputs(random_logits(batch, 2), batch)
    aggregation = "token" if per == "token" else "sequence"
    loss = reduce(nll(out, batch.with_streams(weight=weight), aggregation=aggregation), batch.counts())
    alone = [
        reduce(nll(outputs(random_logits(batch, 2), b), b, aggregation=aggregation), b.counts()).item()
        for b in (batch.select([0, 1]), batch.select([2]))
    ]
    assert loss.item() == pytest.approx(0.25 * alone[0] + 0.75 * alone[1], rel=1e-6)


def test_a_source_with_share_zero_leaves_the_step() -> None:
    batch = random_batch([(False, True, True), (False, True)], seed=2)
    batch.streams.pop("weight")
    weight = source_weights(batch, torch.tensor([0, 1]), {0: 0.0, 1: 2.0})
    assert weight.tolist() == [0, 0, 0, 0, 2]
    assert batch.with_streams(weight=weight).counts()["token"] == 1


@pytest.mark.parametrize("logp", [-1e3, 0.0])
@pytest.mark.parametrize("name", [*LOSSES, *DETACHED])
def test_extreme_log_probs_stay_finite(logp: float, name: str) -> None:
    """A policy that gives the target e^-1000, or everything; against a reference that says the reverse."""
    batch = random_batch([(False, True, True)], seed=0)
    batch = batch.with_streams(logp_ref=torch.tensor([0.0, -1e3 - logp, -1e3 - logp], dtype=torch.float64))
    logits = torch.zeros(2, V, dtype=torch.float64)
    logits[[0, 1], batch.ids[1:]] = 1e3 if logp == 0.0 else -1e3
    logits.requires_grad_()
    value = reduce((LOSSES | DETACHED)[name](outputs(logits, batch), batch), batch.counts())
    (found,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", [*LOSSES, *DETACHED])
def test_a_step_without_trained_tokens_is_zero(name: str) -> None:
    batch = random_batch([(False, True, True), (False, False)], seed=0)
    batch = batch.with_streams(weight=torch.zeros(5, dtype=torch.float64))
    value = reduce((LOSSES | DETACHED)[name](outputs(random_logits(batch, 0), batch), batch), batch.counts())
    assert value.item() == 0.0


def test_wrong_settings_are_refused_with_a_way_out() -> None:
    batch, logits = plain()
    out = outputs(logits, batch)
    with pytest.raises(UserError, match="smoothing"):
        label_smoothed(out, batch, smoothing=1.0)
    with pytest.raises(UserError, match="negative"):
        probability_weighted(out, batch, power=-1.0)
    with pytest.raises(UserError, match="closed form"):
        probability_weighted(out, batch, complement=1.0, detached=False)
    with pytest.raises(UserError, match="beta"):
        minor_sft(out, batch, beta=0.0)
    with pytest.raises(UserError, match="twice the relaxation"):
        dual_update(torch.zeros(1), torch.zeros(1), tolerance=0.0, rate=1.0, relaxation=0.4)
    with pytest.raises(UserError, match="no share"):
        source_weights(batch, torch.tensor([0, 1, 2]), {0: 1.0, 1: 1.0})
    wrong = Batch(batch.ids, batch.offsets, batch.action, {}, {"slice_logp": torch.zeros(9, V + 1)})
    with pytest.raises(UserError, match="vocabulary"):
        anchored(out, wrong, coefficient=0.1)
