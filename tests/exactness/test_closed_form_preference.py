"""Preference losses and reward models on the whole population of pairs, against their closed forms.

The pairs are all pairs of answers, each with its exact Bradley-Terry probability as soft label, so there is
no sampling noise. L-BFGS in fp64 leaves gradients of 1e-10; distances are quadratic to linear in that over
curvatures down to 1e-3, so the tolerance of 1e-6 is set by the optimiser and not by the loss.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from exactness.enumerable import Strings, Tabular, distance, gradient, minimise
from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.objectives.preference import dpo
from rewardlab.objectives.reduction import Terms, reduce
from rewardlab.objectives.reward import bradley_terry

BETA = 0.5
WORLD = Strings()
REFERENCE = Tabular(WORLD).answers().detach()
OPTIMUM = WORLD.optimum(REFERENCE, BETA)
PAIRS = WORLD.pairs().with_streams(logp_ref=given(Tabular(WORLD).logprobs(WORLD.batch).logp).detach())
TOLERANCE = 1e-6


def weighted(seed: int) -> Batch:
    """The same pairs drawn with unequal frequencies."""
    weight = torch.rand(len(PAIRS.pairs), generator=torch.Generator().manual_seed(seed)).double() + 0.1
    return replace(PAIRS, pair_streams={**PAIRS.pair_streams, "weight": weight})


@pytest.mark.parametrize("batch", [PAIRS, weighted(0)], ids=["uniform", "skewed"])
def test_dpo_reaches_the_closed_form_whatever_the_pairs_frequencies(batch: Batch) -> None:
    policy = Tabular(WORLD)
    assert distance(REFERENCE, OPTIMUM, WORLD.prompts) > 0.3
    minimise(policy, lambda: reduce(dpo(policy.logprobs(batch), batch, beta=BETA), batch.counts()))
    assert distance(policy.answers(), OPTIMUM, WORLD.prompts) < TOLERANCE
    implicit = (BETA * (policy.answers().detach() - REFERENCE) - WORLD.reward).view(WORLD.prompts, -1)
    spread = implicit - implicit.mean(-1, keepdim=True)
    assert float(spread.abs().max()) < 1e-4  # the implicit reward is the reward up to a constant


def test_dpo_with_smoothed_labels_has_another_optimum() -> None:
    """Label smoothing pulls every probability to one half: the tilt is smaller than the reward's."""
    policy = Tabular(WORLD)
    minimise(
        policy,
        lambda: reduce(dpo(policy.logprobs(PAIRS), PAIRS, beta=BETA, label_smoothing=0.1), PAIRS.counts()),
    )
    assert distance(policy.answers(), OPTIMUM, WORLD.prompts) > 0.01


class Scores(nn.Module):
    """A reward model with one free score per answer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(count, dtype=torch.float64))

    def outputs(self, batch: Batch) -> Outputs:
        return Outputs(scores=self.scores[batch.streams["answer"][batch.offsets[:-1]].long()])


NUMBERED = PAIRS.with_streams(answer=PAIRS.seq.double())


def centred(scores: Tensor) -> Tensor:
    table = scores.detach().view(WORLD.prompts, -1)
    return table - table.mean(-1, keepdim=True)


def test_bradley_terry_recovers_the_reward_up_to_a_constant_per_prompt() -> None:
    model = Scores(WORLD.batch.size)
    minimise(model, lambda: reduce(bradley_terry(model.outputs(NUMBERED), NUMBERED), NUMBERED.counts()))
    torch.testing.assert_close(centred(model.scores), centred(WORLD.reward), atol=TOLERANCE, rtol=0)


def test_reward_model_then_tilting_is_what_dpo_learns_at_once() -> None:
    model = Scores(WORLD.batch.size)
    minimise(model, lambda: reduce(bradley_terry(model.outputs(NUMBERED), NUMBERED), NUMBERED.counts()))
    tilted = WORLD.normalise(REFERENCE + model.scores.detach() / BETA)
    assert distance(tilted, OPTIMUM, WORLD.prompts) < TOLERANCE


def chunks(batch: Batch, prompts: int) -> list[Batch]:
    """One micro-batch per prompt: the finest split that cuts no pair."""
    n = batch.size // prompts
    return [batch.select(list(range(p * n, (p + 1) * n))[::-1]) for p in range(prompts)]


@pytest.mark.parametrize("kind", ["dpo", "bradley_terry"])
def test_micro_batches_do_not_change_the_gradient(kind: str) -> None:
    batch = NUMBERED
    model = Tabular(WORLD, WORLD.reference.roll(1, 0)) if kind == "dpo" else Scores(batch.size)

    def loss(micro: Batch) -> Terms:
        if isinstance(model, Tabular):
            return dpo(model.logprobs(micro), micro, beta=BETA)
        return bradley_terry(model.outputs(micro), micro, centring=0.01)

    whole = gradient(model, loss(batch), batch)
    parameters = list(model.parameters())
    total = torch.zeros_like(whole)
    for micro in chunks(batch, WORLD.prompts):
        found = torch.autograd.grad(reduce(loss(micro), batch.counts()), parameters)
        total += torch.cat([g.flatten() for g in found])
    assert float(whole.abs().max()) > 1e-4
    torch.testing.assert_close(total, whole, atol=1e-15, rtol=1e-12)
