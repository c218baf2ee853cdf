"""Distillation on an enumerable policy: exact gradients, limits and optima.

Gradients are compared in fp64 after sums over 30 answers: tolerance 1e-12. Descents halve their error each
step and are compared at 1e-9, as for reinforcement learning.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from exactness.enumerable import Strings, Tabular, distance, gradient, minimise, natural_descent
from rewardlab.core.batch import Batch, given, sum_by_sequence
from rewardlab.objectives.distillation import distil, teacher_advantage, teacher_kl
from rewardlab.objectives.divergence import Divergence, Tail
from rewardlab.objectives.policy_gradient import policy_gradient
from rewardlab.objectives.reduction import Terms, reduce
from rewardlab.objectives.schedule import mix

WORLD = Strings(seed=5)
TEACHER = Tabular(WORLD, WORLD.reference.flip(0))
TARGET = TEACHER.answers().detach()


def expected(policy: Tabular, *, teacher: Tabular = TEACHER) -> Batch:
    """All answers, weighted by their probability under the student, with the teacher's log-probs."""
    batch = WORLD.batch
    with torch.no_grad():
        logp = given(policy.logprobs(batch).logp)
        logp_teacher = given(teacher.logprobs(batch).logp)
        weight = sum_by_sequence(logp, batch).exp() * batch.size / WORLD.prompts
    return batch.with_streams(
        logp_sample=logp, logp_teacher=logp_teacher, weight=weight[batch.seq] * batch.action
    )


def with_slice(batch: Batch, k: int | None) -> Batch:
    """The teacher's k most likely tokens at every action, or its whole vocabulary."""
    rows = given(TEACHER.logprobs(batch, vocabulary=True).slice_logp).detach()
    if k is None:
        return replace(batch, action_streams={"slice_logp": rows})
    top = rows.topk(k, dim=-1)
    return replace(batch, action_streams={"slice_logp": top.values, "slice_ids": top.indices})


def with_advantage(batch: Batch, discount: float, extra: Tensor | None = None) -> Batch:
    logp, logp_teacher = batch.streams["logp_sample"], batch.streams["logp_teacher"]
    advantage = teacher_advantage(logp, logp_teacher, batch, discount=discount)
    return batch.with_streams(advantage=advantage if extra is None else advantage + extra)


def test_discount_one_is_the_gradient_of_the_kl_between_answers() -> None:
    policy = Tabular(WORLD)
    answers = policy.answers()
    reverse_kl = (answers.exp() * (answers - TARGET)).sum() / WORLD.prompts
    (true,) = torch.autograd.grad(reverse_kl, policy.logits)
    batch = with_advantage(expected(policy), 1.0)
    terms = policy_gradient(policy.logprobs(batch), batch, aggregation="sequence_sum")
    torch.testing.assert_close(gradient(policy, terms, batch), true.flatten(), atol=1e-12, rtol=0)


def test_discount_zero_is_the_next_token_reverse_kl_at_visited_prefixes() -> None:
    """Sampled from one log-prob per token, it has the gradient of `distil` with the whole distributions."""
    policy = Tabular(WORLD)
    batch = with_slice(with_advantage(expected(policy), 0.0), None)
    sampled = policy_gradient(policy.logprobs(batch), batch, aggregation="sequence_sum")
    estimated = teacher_kl(policy.logprobs(batch), batch, aggregation="sequence_sum")
    full = distil(
        policy.logprobs(batch, vocabulary=True), batch, kind="reverse_kl", aggregation="sequence_sum"
    )
    reference = gradient(policy, full, batch)
    assert float(reference.abs().max()) > 0.01
    torch.testing.assert_close(gradient(policy, sampled, batch), reference, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient(policy, estimated, batch), reference, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("k", [None, 3])
def test_distilling_the_distributions_ends_at_the_teacher(kind: Divergence, k: int | None) -> None:
    policy = Tabular(WORLD)
    assert distance(policy.answers(), TARGET, WORLD.prompts) > 0.2
    batch = with_slice(WORLD.batch, k)
    minimise(
        policy,
        lambda: reduce(distil(policy.logprobs(batch, vocabulary=True), batch, kind=kind), batch.counts()),
    )
    assert distance(policy.answers(), TARGET, WORLD.prompts) < 1e-6


@pytest.mark.parametrize("tail", ["bucket", "truncate", "renormalise"])
def test_what_each_tail_learns_from_the_two_most_likely_of_three_tokens(tail: Tail) -> None:
    """bucket: everything, since the rest is one token. truncate: the rest goes. renormalise: it is free."""
    policy = Tabular(WORLD)
    batch = with_slice(WORLD.batch, 2)
    minimise(
        policy,
        lambda: reduce(distil(policy.logprobs(batch, vocabulary=True), batch, tail=tail), batch.counts()),
    )
    inside = given(policy.logprobs(batch, vocabulary=True).slice_logp).detach()
    teacher = batch.action_streams["slice_logp"]
    mass, teacher_mass = inside.exp().sum(-1), teacher.exp().sum(-1)
    torch.testing.assert_close(inside.log_softmax(-1), teacher.log_softmax(-1), atol=1e-4, rtol=0)
    if tail == "bucket":
        torch.testing.assert_close(mass, teacher_mass, atol=1e-6, rtol=0)
    elif tail == "truncate":
        assert float(mass.min()) > 1 - 1e-3
    else:
        start = given(Tabular(WORLD).logprobs(batch, vocabulary=True).slice_logp).detach().exp().sum(-1)
        assert float((mass - teacher_mass).abs().max()) > 0.05
        assert float((mass - start).abs().max()) < 0.5


def test_kdrl_with_whole_answer_credit_tilts_the_teacher_by_the_reward() -> None:
    """r - beta KL(pi || teacher) has the optimum teacher * exp(r / beta) / Z; one more closed form."""
    beta = 0.5
    policy = Tabular(WORLD)

    def step(_: int) -> Tensor:
        batch = expected(policy)
        reward = (WORLD.reward / beta)[batch.seq] * batch.action
        batch = with_advantage(batch, 1.0, reward)
        terms = policy_gradient(policy.logprobs(batch), batch, aggregation="sequence_sum")
        return reduce(mix({"rl": terms}, {"rl": beta}), batch.counts())

    natural_descent(policy, step, 45, 0.5 / beta)
    assert distance(policy.answers(), WORLD.optimum(TARGET, beta), WORLD.prompts) < 1e-9


def test_micro_batches_do_not_change_the_gradient() -> None:
    policy = Tabular(WORLD)
    batch = with_slice(with_advantage(expected(Tabular(WORLD, WORLD.reference.roll(1, 0))), 0.7), 2)

    def loss(micro: Batch) -> Terms:
        out = policy.logprobs(micro, vocabulary=True)
        parts = {
            "rl": policy_gradient(out, micro),
            "kd": teacher_kl(out, micro, estimator="k3", aggregation="sequence"),
            "full": distil(out, micro, kind="jsd", beta=0.3),
        }
        return mix(parts, {"rl": 1.0, "kd": 0.3, "full": 0.7})

    whole = gradient(policy, loss(batch), batch)
    for parts in (2, 7, batch.size):
        total = torch.zeros_like(whole)
        for k in range(parts):
            micro = batch.select(list(range(batch.size))[k::parts])
            (found,) = torch.autograd.grad(reduce(loss(micro), batch.counts()), policy.logits)
            total += found.flatten()
        torch.testing.assert_close(total, whole, atol=1e-14, rtol=1e-12)
