"""Policy-gradient methods on an enumerable policy: where their losses lead, without sampling noise.

max E_pi[r] - beta KL(pi || ref), the KL between whole answers, has one solution: ref exp(r / beta) / Z.
Distances are total variations between answer distributions; the start is more than 0.3 from the optimum.
Natural-gradient steps halve the error, so after 45 of them only rounding (1e-15 a sum) is left, and the
tolerance of 1e-9 is far above it and far below any difference between two methods' optima (0.01 and more).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from exactness.enumerable import Strings, Tabular, distance, gradient, minimise, natural_descent
from rewardlab.core.batch import Batch, given, sum_by_sequence
from rewardlab.objectives import kl
from rewardlab.objectives.advantage import group_relative, rloo
from rewardlab.objectives.policy_gradient import Aggregation, LossName, group_pairs, policy_gradient
from rewardlab.objectives.reduction import Terms, reduce

BETA = 0.5
WORLD = Strings()
REFERENCE = Tabular(WORLD).answers().detach()
OPTIMUM = WORLD.optimum(REFERENCE, BETA)
TOLERANCE = 1e-9
RATE = 0.5 / BETA
"""1 / BETA would jump to the solution of the next-token problem; half of it halves the error."""

Advantage = Callable[[Tensor, Tensor], Tensor]


def fill(policy: Tabular, batch: Batch, advantage: Advantage, *, beta_in_reward: float) -> Batch:
    """What an algorithm fills from the policy's samples; all answers, each with its exact probability.

    The weight is the probability times the number of answers over the number of prompts, so that the
    mean over sequences is the mean over prompts of the expectation over answers.
    """
    with torch.no_grad():
        logp = given(policy.logprobs(batch).logp)
        logp_ref = given(Tabular(WORLD).logprobs(batch).logp)
        reward = given(batch.reward) - beta_in_reward * sum_by_sequence(
            kl.estimate(logp, logp_ref, "k1"), batch
        )
        probability = sum_by_sequence(logp, batch).exp()
    action = batch.action.double()
    return batch.with_streams(
        logp_sample=logp,
        logp_ref=logp_ref,
        weight=(probability * batch.size / WORLD.prompts)[batch.seq] * action,
        advantage=advantage(reward, batch.group)[batch.seq] * action,
    )


def objective(policy: Tabular) -> Tensor:
    """E_pi[r] - beta KL(pi || ref), mean over prompts, by summing over every answer."""
    logp = policy.answers()
    return (logp.exp() * (WORLD.reward - BETA * (logp - REFERENCE))).sum() / WORLD.prompts


@pytest.mark.parametrize("advantage", [group_relative, rloo])
@pytest.mark.parametrize("loss", ["reinforce", "ppo"])
def test_kl_in_the_reward_reaches_the_closed_form(loss: LossName, advantage: Advantage) -> None:
    policy = Tabular(WORLD)
    assert distance(REFERENCE, OPTIMUM, WORLD.prompts) > 0.3

    def step(_: int) -> Tensor:
        batch = fill(policy, WORLD.batch, advantage, beta_in_reward=BETA)
        terms = policy_gradient(policy.logprobs(batch), batch, loss=loss, aggregation="sequence_sum")
        return reduce(terms, batch.counts())

    natural_descent(policy, step, 45, RATE)
    assert distance(policy.answers(), OPTIMUM, WORLD.prompts) < TOLERANCE
    log_z = (REFERENCE + WORLD.reward / BETA).view(WORLD.prompts, -1).logsumexp(-1)
    assert objective(policy).item() == pytest.approx(float(BETA * log_z.mean()), abs=1e-10)


def test_ppo_with_several_epochs_on_the_same_samples_reaches_the_closed_form() -> None:
    """Four updates per round of sampling; the clip works on the way and is idle at the end."""
    policy = Tabular(WORLD)
    held: list[Batch] = []
    clipped = []

    def step(number: int) -> Tensor:
        if number % 4 == 0:
            held[:] = [fill(policy, WORLD.batch, group_relative, beta_in_reward=BETA)]
        terms = policy_gradient(policy.logprobs(held[0]), held[0], aggregation="sequence_sum")
        clipped.append(float(terms["clipped"].total))
        return reduce(terms, held[0].counts())

    natural_descent(policy, step, 160, RATE / 4)
    assert distance(policy.answers(), OPTIMUM, WORLD.prompts) < TOLERANCE
    assert sum(clipped[:100]) > 0
    assert sum(clipped[-100:]) == 0


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant", "sequence_sum"])
@pytest.mark.parametrize("scale_by_std", [False, True])
def test_at_the_optimum_no_group_teaches_anything(aggregation: Aggregation, scale_by_std: bool) -> None:
    """There r - beta log(pi / ref) is the same for all answers: any group, however drawn, has advantages 0.

    So with the KL in the reward neither the length normalisation nor the std moves the optimum. Rounding
    leaves spreads of 1e-15, which the std's 1e-6 in the divisor keeps at 1e-9; tolerance 1e-7.
    """
    policy = Tabular(WORLD, solve(WORLD, BETA, soft=True))
    assert distance(policy.answers(), OPTIMUM, WORLD.prompts) < 1e-12
    generator = torch.Generator().manual_seed(0)
    members = torch.randint(len(WORLD.answers), (24,), generator=generator).tolist()
    batch = WORLD.batch_of(members, [i // 4 for i in range(24)])

    def advantage(reward: Tensor, group: Tensor) -> Tensor:
        return group_relative(reward, group, scale_by_std=scale_by_std)

    filled = fill(policy, batch, advantage, beta_in_reward=BETA)
    terms = policy_gradient(policy.logprobs(filled), filled, aggregation=aggregation, constant_length=4)
    assert float(gradient(policy, terms, filled).abs().max()) < 1e-7
    start = Tabular(WORLD)
    filled = fill(start, batch, advantage, beta_in_reward=BETA)
    terms = policy_gradient(start.logprobs(filled), filled, aggregation=aggregation, constant_length=4)
    assert float(gradient(start, terms, filled).abs().max()) > 1e-3


def solve(world: Strings, beta: float, *, soft: bool) -> Tensor:
    """Log-prob rows of pi(a | s) = ref(a | s) exp(Q(s, a) / beta) / Z(s), from the longest prefixes back.

    soft: the value of a prefix is beta log E_ref exp(Q / beta), which gives the closed form.
    not soft: it is E_pi[Q], the mean reward from there: the fixed point of a penalty per token that does
    not look at the KL of later tokens.
    """
    reference = world.reference.log_softmax(-1)
    place = {answer: i for i, answer in enumerate(world.answers)}
    value: dict[tuple[int, ...], Tensor] = {}
    rows = torch.zeros_like(reference)
    for state, row in sorted(world.states.items(), key=lambda x: -len(x[0])):
        first = (state[0] - world.width) * len(world.answers)
        following = [(*state[1:], token) for token in range(world.width)]
        q = torch.stack(
            [world.reward[first + place[x]] if x in place else value[(state[0], *x)] for x in following]
        )
        tilted = reference[row] + q / beta
        rows[row] = tilted.log_softmax(-1)
        value[state] = beta * tilted.logsumexp(-1) if soft else (rows[row].exp() * q).sum()
    return rows


KL_LOSSES = [("k3", True), ("k2", True), ("k2", False), ("k3+", False)]


@pytest.mark.parametrize(("estimator", "importance"), KL_LOSSES)
def test_kl_per_token_in_the_loss_reaches_its_own_fixed_point(
    estimator: kl.Estimator, importance: bool
) -> None:
    """It is not the closed form: the per-token penalty ignores that a token changes the KL of later ones.

    (Tang and Munos 2025, arXiv 2506.09477, call it a partial gradient.) Both optima are known here.
    """
    policy = Tabular(WORLD)

    def step(_: int) -> Tensor:
        batch = fill(policy, WORLD.batch, group_relative, beta_in_reward=0.0)
        terms = policy_gradient(
            policy.logprobs(batch),
            batch,
            aggregation="sequence_sum",
            kl_coefficient=BETA,
            kl_estimator=estimator,
            kl_importance=importance,
        )
        return reduce(terms, batch.counts())

    natural_descent(policy, step, 45, RATE)
    own = Tabular(WORLD, solve(WORLD, BETA, soft=False)).answers().detach()
    assert distance(policy.answers(), own, WORLD.prompts) < TOLERANCE
    assert distance(own, OPTIMUM, WORLD.prompts) > 0.01


@pytest.mark.parametrize(("estimator", "importance"), KL_LOSSES)
def test_on_one_token_answers_kl_in_the_loss_is_the_closed_form(
    estimator: kl.Estimator, importance: bool
) -> None:
    world = Strings(letters=4, length=1, prompts=3, seed=1)
    policy = Tabular(world)
    reference = policy.answers().detach()

    def step(_: int) -> Tensor:
        with torch.no_grad():
            logp = given(policy.logprobs(world.batch).logp)
        batch = world.batch.with_streams(
            logp_sample=logp,
            logp_ref=given(Tabular(world).logprobs(world.batch).logp).detach(),
            weight=logp.exp() * world.batch.size / world.prompts * world.batch.action,
            advantage=group_relative(world.reward, world.batch.group)[world.batch.seq],
        )
        terms = policy_gradient(
            policy.logprobs(batch),
            batch,
            aggregation="sequence_sum",
            kl_coefficient=BETA,
            kl_estimator=estimator,
            kl_importance=importance,
        )
        return reduce(terms, batch.counts())

    natural_descent(policy, step, 45, RATE)
    assert distance(policy.answers(), world.optimum(reference, BETA), world.prompts) < TOLERANCE


def all_groups(world: Strings, size: int) -> Batch:
    """Every group of `size` answers to prompt 0 that sampling could give, in order."""
    groups = list(itertools.product(range(len(world.answers)), repeat=size))
    return world.batch_of(
        [i for g in groups for i in g], [k for k in range(len(groups)) for _ in range(size)]
    )


@pytest.mark.parametrize("size", [2, 3])
def test_expected_gradient_of_sampled_groups(size: int) -> None:
    """Over all groups of n answers: RLOO's is the gradient, GRPO's without std is (n - 1) / n of it."""
    world = Strings(letters=2, length=2, prompts=1, seed=3)
    policy = Tabular(world, world.reference.roll(1, 0))
    batch = all_groups(world, size)
    answers = policy.answers()
    (true,) = torch.autograd.grad((answers.exp() * world.reward).sum(), policy.logits)
    with torch.no_grad():
        logp = given(policy.logprobs(batch).logp)
        of_group = sum_by_sequence(logp, batch).view(-1, size).sum(-1).exp().repeat_interleave(size)
    found = {}
    for name, advantage in {"grpo": group_relative, "rloo": rloo}.items():
        filled = batch.with_streams(
            logp_sample=logp,
            weight=(of_group * batch.size / size)[batch.seq] * batch.action,
            advantage=advantage(given(batch.reward), batch.group)[batch.seq] * batch.action,
        )
        terms = policy_gradient(policy.logprobs(filled), filled, aggregation="sequence_sum")
        found[name] = -gradient(policy, terms, filled)
    torch.testing.assert_close(found["rloo"], true.flatten(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found["grpo"], true.flatten() * (size - 1) / size, atol=1e-12, rtol=0)


@pytest.mark.parametrize("skew", [0.0, 1.5])
def test_gvpo_reaches_its_optimum_from_any_sampling(skew: float) -> None:
    """Whatever answers the groups hold: here all of them once, or some of them many times."""
    times = (1 + skew * torch.arange(len(WORLD.answers)) % 4).long().tolist() * WORLD.prompts
    batch = WORLD.batch_of([i for i, n in enumerate(times) for _ in range(n)])
    start = given(Tabular(WORLD).logprobs(batch).logp).detach()
    batch = replace(batch, pairs=group_pairs(batch.group)).with_streams(
        logp_sample=start, advantage=torch.zeros_like(start)
    )
    policy = Tabular(WORLD)
    minimise(
        policy,
        lambda: reduce(
            policy_gradient(policy.logprobs(batch), batch, loss="gvpo", options={"beta": BETA}),
            batch.counts(),
        ),
    )
    assert distance(policy.answers(), OPTIMUM, WORLD.prompts) < TOLERANCE


def split_gradient(policy: Tabular, loss: Callable[[Batch], Terms], batch: Batch, parts: int) -> Tensor:
    """The sum of the micro-batches' gradients, each divided by the whole step's counts."""
    rows = [list(range(batch.size))[k::parts] for k in range(parts)]
    total = torch.zeros_like(policy.logits).flatten()
    for chosen in rows:
        micro = batch.select(chosen)
        (found,) = torch.autograd.grad(reduce(loss(micro), batch.counts()), policy.logits)
        total += found.flatten()
    return total


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant", "sequence_sum"])
@pytest.mark.parametrize("parts", [2, 5, 30])
def test_micro_batches_do_not_change_the_gradient(aggregation: Aggregation, parts: int) -> None:
    policy = Tabular(WORLD, WORLD.reference.roll(1, 0))
    batch = fill(Tabular(WORLD), WORLD.batch, group_relative, beta_in_reward=BETA)

    def loss(micro: Batch) -> Terms:
        return policy_gradient(
            policy.logprobs(micro),
            micro,
            aggregation=aggregation,
            constant_length=3,
            kl_coefficient=BETA,
        )

    whole = gradient(policy, loss(batch), batch)
    assert float(whole.abs().max()) > 1e-3
    torch.testing.assert_close(split_gradient(policy, loss, batch, parts), whole, atol=1e-14, rtol=1e-12)
