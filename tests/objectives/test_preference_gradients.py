"""Every preference loss has the gradient of its own value, in fp64, and stays finite far out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preference_batches import BCO_DELTA, CASES, outputs, ready
from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.objectives.preference import PreferenceSettings, implicit_outcome, kto, match, preference, tdpo
from rewardlab.objectives.reduction import Terms, reduce

CONSTANT_WEIGHTS = ("wpo",)
"""Cases whose weights depend on the policy and are held constant: no finite difference can see that."""


def loss_of(logp: Tensor, batch: Batch, settings: PreferenceSettings) -> Tensor:
    return reduce(preference(outputs(logp), batch, **settings.knobs(), bco_delta=BCO_DELTA), batch.counts())


@pytest.mark.parametrize("name", [n for n in CASES if n not in CONSTANT_WEIGHTS])
def test_gradient_is_the_finite_difference(name: str) -> None:
    batch, logp = ready(CASES[name], seed=3)
    logp.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_of(x, batch, CASES[name]), logp)
    gradient = torch.autograd.grad(loss_of(logp, batch, CASES[name]), logp)[0]
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    assert (gradient[~batch.action] == 0).all()


def test_weights_of_likelihood_are_constant_to_the_gradient() -> None:
    batch, logp = ready(CASES["wpo"], seed=3)
    logp.requires_grad_()
    gradient = torch.autograd.grad(loss_of(logp, batch, CASES["wpo"]), logp)[0]
    trained = batch.action.double()
    aligned = torch.zeros(batch.size, dtype=torch.float64)
    aligned = aligned.index_add(0, batch.seq, (logp.detach() - batch.streams["log_collision"]) * trained)
    mean = aligned / torch.zeros(batch.size, dtype=torch.float64).index_add(0, batch.seq, trained)
    weight = batch.pair_streams["weight"] * mean[batch.pairs].exp().prod(1)
    fixed = replace(batch, pair_streams={**batch.pair_streams, "weight": weight})
    expected = torch.autograd.grad(loss_of(logp, fixed, CASES["sigmoid"]), logp)[0]
    torch.testing.assert_close(gradient, expected)


def unpaired(seed: int) -> tuple[Batch, Tensor]:
    batch, logp = ready(CASES["sigmoid"], seed, plain=True)
    flags = torch.tensor([1.0, 0.0] * (batch.size // 2), dtype=torch.float64)
    flags[0] = 0.3
    parts = {"desirable": flags, "kl_baseline": torch.full_like(flags, 0.2)}
    return replace(batch, parts=parts), logp


@pytest.mark.parametrize("kind", ["kto", "outcome", "outcome_delta"])
def test_gradient_of_losses_on_single_answers(kind: str) -> None:
    batch, logp = unpaired(seed=5)

    def loss(x: Tensor) -> Tensor:
        terms: Terms
        if kind == "kto":
            terms = kto(outputs(x), batch, beta=0.3, desirable_weight=1.3, undesirable_weight=0.7)
        else:
            delta = 0.4 if kind == "outcome_delta" else 0.0
            terms = implicit_outcome(outputs(x), batch, beta=0.3, delta=delta)
        return reduce(terms, batch.counts())

    assert torch.autograd.gradcheck(loss, logp.requires_grad_())


def vocabulary_batch(seed: int) -> tuple[Batch, Tensor, Tensor]:
    """A batch with the reference's log-probs over a vocabulary of 5; the policy's logits; token choices."""
    batch, logp = ready(CASES["sigmoid"], seed)
    generator = torch.Generator().manual_seed(seed)
    actions = int(batch.action.sum())
    reference = torch.randn(actions, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    logits = torch.randn(actions, 5, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 5, (actions,), generator=generator)
    at = batch.action.nonzero().squeeze(-1)
    logp_ref = torch.zeros_like(logp).index_put((at,), reference.gather(1, tokens[:, None]).squeeze(1))
    batch = replace(batch.with_streams(logp_ref=logp_ref), action_streams={"slice_logp": reference})
    return batch, logits, tokens


def tdpo_loss(logits: Tensor, batch: Batch, tokens: Tensor, variant: int) -> Tensor:
    full = logits.log_softmax(-1)
    at = batch.action.nonzero().squeeze(-1)
    zeros = torch.zeros(batch.ids.numel(), dtype=torch.float64)
    logp = zeros.index_put((at,), full.gather(1, tokens[:, None]).squeeze(1))
    out = Outputs(logp=logp, slice_logp=full)
    return reduce(tdpo(out, batch, beta=0.3, variant=1 if variant == 1 else 2), batch.counts())


def test_gradient_of_tdpo_1_is_the_finite_difference() -> None:
    batch, logits, tokens = vocabulary_batch(seed=1)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tdpo_loss(x, batch, tokens, 1), logits)


def test_tdpo_2_holds_only_the_rejected_answers_kl() -> None:
    """Its gradient is the finite difference where the chosen answers' logits stand still, and nowhere else."""
    batch, logits, tokens = vocabulary_batch(seed=1)
    of_chosen = torch.isin(batch.seq[batch.action], batch.pairs[:, 0])

    def on_rejected(x: Tensor) -> Tensor:
        return tdpo_loss(torch.where(of_chosen[:, None], logits, x), batch, tokens, 2)

    def on_chosen(x: Tensor) -> Tensor:
        return tdpo_loss(torch.where(of_chosen[:, None], x, logits), batch, tokens, 2)

    moving = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(on_rejected, moving)
    assert not torch.autograd.gradcheck(on_chosen, moving, raise_exception=False)


def far_out(chosen: float, rejected: float) -> tuple[Batch, Tensor]:
    """One-token answers in fp32 whose log-ratios to the reference are as given, next to an ordinary pair."""
    rows = [Sequence((1, 2), (False, True))] * 4
    logp = torch.tensor([0.0, -1000.0, 0.0, -1000.0, 0.0, -1.0, 0.0, -2.0])
    ratios = torch.tensor([0.0, chosen, 0.0, rejected, 0.0, 0.1, 0.0, -0.1])
    batch = Batch.pack(rows).with_streams(logp_ref=logp - ratios, log_collision=torch.full((8,), -1.0))
    streams = {"deviation": torch.tensor([0.5, -0.5])}
    return replace(batch, pairs=torch.tensor([[0, 1], [2, 3]]), pair_streams=streams), logp


@pytest.mark.parametrize("chosen", [-1000.0, 1000.0])
@pytest.mark.parametrize("rejected", [-1000.0, 1000.0])
@pytest.mark.parametrize("label", [1.0, 0.5])
def test_log_ratios_of_a_thousand_are_finite_in_fp32(chosen: float, rejected: float, label: float) -> None:
    for name, settings in CASES.items():
        batch, logp = far_out(chosen, rejected)
        batch = replace(batch, pair_streams={**batch.pair_streams, "label": torch.full((2,), label)})
        if settings.needs_whole_step:
            batch = match(batch, logp, loss=settings.loss, tail=settings.tail)
        logp = logp.clone().requires_grad_()
        loss = loss_of(logp, batch, settings)
        gradient = torch.autograd.grad(loss, logp)[0]
        assert torch.isfinite(loss), name
        assert torch.isfinite(gradient).all(), name


@pytest.mark.parametrize("name", CASES)
def test_certain_answers_and_answers_without_trained_tokens(name: str) -> None:
    """log-prob 0 (a certain token) and a pair whose chosen answer is masked out."""
    batch, _ = far_out(0.0, 0.0)
    weight = batch.action.float()
    weight[1] = 0.0
    batch = batch.with_streams(weight=weight)
    logp = torch.zeros(8)
    if CASES[name].needs_whole_step:
        batch = match(batch, logp, loss=CASES[name].loss, tail=CASES[name].tail)
    logp.requires_grad_()
    loss = loss_of(logp, batch, CASES[name])
    gradient = torch.autograd.grad(loss, logp)[0]
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert gradient[1] == 0
