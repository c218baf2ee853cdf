"""Identities between losses, and what GVPO and the covariance methods promise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.policy_gradient import Tokens, group_pairs, gvpo, policy_gradient, prepare
from rewardlab.objectives.policy_gradient.covariance import covariance, select_in_band, select_largest
from rewardlab.objectives.policy_gradient.ratio_losses import gmpo, gspo, gspo_token, ppo
from rewardlab.objectives.policy_gradient.score_losses import dppo_kl, dppo_tv, vespo
from rewardlab.objectives.reduction import reduce


def one_token(logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor) -> Tokens:
    """Each token its own sequence."""
    n = len(logp)
    return Tokens(
        logp, logp - old, advantage, torch.ones(n, dtype=torch.bool), torch.arange(n), n, selected=None
    )


def test_gspo_and_gspo_token_agree_where_the_advantage_is_constant() -> None:
    g = torch.Generator().manual_seed(0)
    seq = torch.tensor([0, 0, 0, 1, 1])
    advantage = torch.tensor([1.0, -2.0], dtype=torch.float64)[seq]
    old = -torch.rand(5, generator=g, dtype=torch.float64)
    found = []
    for loss in (gspo, gspo_token):
        logp = (old + torch.tensor([1e-4, -2e-4, 1e-4, 3e-4, 0.0])).requires_grad_()
        x = Tokens(logp, logp - old, advantage, torch.ones(5, dtype=torch.bool), seq, 2)
        losses = loss(x).loss
        mean = torch.stack([losses[:3].mean(), losses[3:].mean()]).sum()
        found.append((mean.detach(), torch.autograd.grad(mean, logp)[0]))
    torch.testing.assert_close(found[0], found[1])


def test_one_token_sequences_make_gspo_ppo() -> None:
    g = torch.Generator().manual_seed(1)
    logp, old, a = (torch.randn(50, generator=g, dtype=torch.float64) for _ in range(3))
    x = one_token(logp, old, a)
    knobs = {"clip_low": 0.2, "clip_high": 0.3}
    torch.testing.assert_close(gspo(x, **knobs).loss, ppo(x, **knobs).loss)


def test_dual_clip_bounds_a_negative_advantage_and_leaves_the_rest() -> None:
    ratio = torch.tensor([0.5, 1.0, 2.9, 3.1, 100.0], dtype=torch.float64)
    for a in (-2.0, 2.0):
        x = one_token(ratio.log(), torch.zeros(5, dtype=torch.float64), torch.full((5,), a).double())
        plain, dual = ppo(x).loss, ppo(x, dual_clip=3.0).loss
        expected = plain.clamp(max=3.0 * 2.0) if a < 0 else plain
        torch.testing.assert_close(dual, expected)


@pytest.mark.parametrize(("advantage", "kept"), [(2.0, [-0.9, 0.2, 0.4]), (-2.0, [-0.4, 0.2, 0.9])])
def test_gmpo_clips_each_token_on_the_side_that_the_advantage_pushes_to(
    advantage: float, kept: list[float]
) -> None:
    change = torch.tensor([-0.9, 0.2, 0.9], dtype=torch.float64, requires_grad=True)
    every = torch.ones(3, dtype=torch.bool)
    a = torch.full((3,), advantage, dtype=torch.float64)
    found = gmpo(Tokens(change, change, a, every, torch.zeros(3, dtype=torch.long), 1))
    expected = -advantage * math.exp(sum(kept) / 3)
    assert found.loss.tolist() == pytest.approx([expected] * 3)
    slope = torch.autograd.grad(found.loss.mean(), change)[0]
    open_ = [k == c for k, c in zip(kept, change.tolist(), strict=True)]
    assert slope.tolist() == pytest.approx([expected / 3 * o for o in open_])
    assert found.cut.tolist() == [not o for o in open_]


def test_vespo_weight_is_one_on_policy_and_fades_on_both_sides() -> None:
    logs = torch.tensor([-5.0, 0.0, 3.0], dtype=torch.float64)
    x = one_token(torch.full((3,), -1.0).double(), -1.0 - logs, torch.ones(3).double())
    phi = vespo(x).loss  # -phi * 1 * -1
    assert float(phi[1]) == pytest.approx(1.0)
    assert float(phi[0]) < 1e-2
    assert float(phi[2]) < 1e-10


def test_dppo_masks_by_probability_and_not_by_ratio() -> None:
    # a rare token tripled (0.001 -> 0.003) passes; a common one from 0.6 to 0.9 does not
    new = torch.tensor([0.003, 0.9, 0.9], dtype=torch.float64)
    old = torch.tensor([0.001, 0.6, 0.6], dtype=torch.float64)
    x = one_token(new.log(), old.log(), torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert dppo_tv(x).cut.tolist() == [False, True, False]
    b = 0.6 * torch.log(torch.tensor(0.6 / 0.9)) + 0.4 * torch.log(torch.tensor(0.4 / 0.1))
    assert dppo_kl(x, divergence_high=float(b) + 1e-6).cut.tolist() == [False, False, False]
    assert dppo_kl(x, divergence_high=float(b) - 1e-6).cut.tolist() == [False, True, False]


def bandit(k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """All k one-token answers to one prompt, once each: a uniform sampler over an enumerable policy."""
    g = torch.Generator().manual_seed(seed)
    reward = torch.randn(k, generator=g, dtype=torch.float64)
    reference = torch.randn(k, generator=g, dtype=torch.float64).log_softmax(0)
    batch = Batch.pack([Sequence((0, i), (False, True)) for i in range(k)], group=[0] * k)
    old = torch.stack([torch.zeros(k, dtype=torch.float64), reference], 1).flatten()
    return reward, reference, replace(batch, reward=reward).with_streams(logp_sample=old)


def test_gvpo_minimiser_is_the_closed_form_optimum() -> None:
    """V1: the unique minimiser is pi_old exp(r / beta) / Z, under uniform as under skewed sampling."""
    k, beta = 5, 0.5
    reward, reference, batch = bandit(k, 0)
    optimum = (reference + reward / beta).log_softmax(0)
    for copies in ([1] * k, [3, 1, 1, 2, 1]):
        rows = [i for i, n in enumerate(copies) for _ in range(n)]
        skewed = batch.select(rows)
        skewed = replace(skewed, pairs=group_pairs(skewed.group))
        theta = torch.zeros(k, dtype=torch.float64, requires_grad=True)
        descent = torch.optim.LBFGS(
            [theta], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-16
        )

        def closure(
            theta: torch.Tensor = theta,
            descent: torch.optim.LBFGS = descent,
            rows: list[int] = rows,
            skewed: Batch = skewed,
        ) -> torch.Tensor:
            descent.zero_grad()
            logp = theta.log_softmax(0)[rows]
            flat = torch.stack([torch.zeros_like(logp), logp], 1).flatten()
            loss = gvpo(Outputs(logp=flat), skewed, beta=beta)["pg"].total
            loss.backward()
            return loss

        descent.step(closure)
        torch.testing.assert_close(theta.detach().log_softmax(0), optimum, atol=1e-6, rtol=0)


def test_gvpo_gradient_is_its_weight_form() -> None:
    """V2: -beta / (k - 1) sum_i w_i grad log pi(y_i), w_i = (r_i - mean) - beta (D_i - mean)."""
    k, beta = 6, 0.3
    reward, reference, batch = bandit(k, 1)
    batch = replace(batch, pairs=group_pairs(batch.group))
    logp = (reference + 0.4 * torch.randn(k, dtype=torch.float64)).requires_grad_()
    flat = torch.stack([torch.zeros_like(logp), logp], 1).flatten()
    loss = reduce(gvpo(Outputs(logp=flat), batch, beta=beta), batch.counts())
    d = (logp - reference).detach()
    w = (reward - reward.mean()) - beta * (d - d.mean())
    torch.testing.assert_close(torch.autograd.grad(loss, logp)[0], -beta / (k - 1) * w)


def test_gvpo_refuses_a_part_of_a_group_and_leaves_out_untrained_answers() -> None:
    reward, _, batch = bandit(4, 2)
    logp = torch.zeros(8, dtype=torch.float64)
    with pytest.raises(UserError, match="part of a group"):
        gvpo(Outputs(logp=logp), batch.select([0, 1]))
    tied = prepare(batch.with_streams(advantage=logp), "gvpo", torch.Generator())
    with pytest.raises(ValueError, match="both members"):
        tied.select([0, 1])
    masked = tied.with_streams(weight=torch.tensor([0.0, 1.0] * 3 + [0.0, 0.0]))
    three = prepare(batch.select([0, 1, 2]), "gvpo", torch.Generator())
    a = reduce(policy_gradient(Outputs(logp=logp), masked, loss="gvpo"), masked.counts())
    b = reduce(policy_gradient(Outputs(logp=logp[:6]), three, loss="gvpo"), three.counts())
    torch.testing.assert_close(a, b)
    assert reward.numel() == 4


def test_covariance_selection_by_hand() -> None:
    trained = torch.tensor([True, True, True, True, False])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 9.0])
    logp = torch.tensor([-1.0, -3.0, -2.0, -2.0, -9.0])
    cov = covariance(advantage, logp, trained)
    assert cov.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert float(cov.sum() / 4) == pytest.approx(
        float(((advantage * logp)[:4]).mean() - advantage[:4].mean() * logp[:4].mean())
    )
    g = torch.Generator().manual_seed(0)
    assert select_largest(advantage, logp, trained, g, share=0.5).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
    chosen = select_in_band(advantage, logp, trained, g, share=0.25, band_low=0.5, band_high=2.0)
    assert int(chosen.sum()) == 1
    assert bool(chosen[:2].any())
    assert not select_in_band(advantage, logp, trained, g, band_low=2.0, band_high=5.0).any()


def test_covariance_losses_need_the_whole_steps_selection() -> None:
    batch = Batch.pack([Sequence((0, 1), (False, True))]).with_streams(
        logp_sample=torch.zeros(2), advantage=torch.ones(2)
    )
    with pytest.raises(UserError, match="no stream `selected`"):
        policy_gradient(Outputs(logp=torch.zeros(2)), batch, loss="kl_cov")
    ready = prepare(batch, "kl_cov", torch.Generator().manual_seed(0))
    logp = torch.tensor([0.0, -0.1], requires_grad=True)
    terms = policy_gradient(Outputs(logp=logp), ready, loss="kl_cov", options={"penalty": 2.0})
    expected = -torch.tensor(-0.1).exp() + 2.0 * 0.1
    assert float(terms["pg"].total.detach()) == pytest.approx(float(expected))
