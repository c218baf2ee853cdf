"""Losses on examples small enough to compute by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives import kl
from rewardlab.objectives.advantage import group_relative
from rewardlab.objectives.policy_gradient import clipped
from rewardlab.objectives.preference import dpo
from rewardlab.objectives.reduction import reduce
from rewardlab.objectives.reward import bradley_terry
from rewardlab.objectives.supervised import nll


def pair_batch() -> Batch:
    """Two sequences of three tokens: one prompt token and two actions each; chosen first."""
    rows = [Sequence((5, 1, 2), (False, True, True)), Sequence((5, 3, 4), (False, True, True))]
    return replace(Batch.pack(rows), pairs=torch.tensor([[0, 1]]))


def test_dpo_on_three_tokens() -> None:
    # chosen: log pi = -1.0 - 0.5, log ref = -1.2 - 0.9, so its change is +0.6
    # rejected: log pi = -2.0 - 1.0, log ref = -1.5 - 1.0, so its change is -0.5
    # h = 1.1; loss = -log sigmoid(0.5 * 1.1) = log(1 + exp(-0.55))
    logp = torch.tensor([0.0, -1.0, -0.5, 0.0, -2.0, -1.0])
    batch = pair_batch().with_streams(logp_ref=torch.tensor([0.0, -1.2, -0.9, 0.0, -1.5, -1.0]))
    terms = dpo(Outputs(logp=logp), batch, beta=0.5)
    assert float(terms["dpo"].total) == pytest.approx(math.log1p(math.exp(-0.55)), abs=1e-6)
    assert float(terms["chosen_logp"].total) == pytest.approx(0.6, abs=1e-6)
    assert float(terms["rejected_logp"].total) == pytest.approx(-0.5, abs=1e-6)
    assert float(terms["accuracy"].total) == 1.0


def test_dpo_of_the_reference_itself_is_log_two() -> None:
    logp = torch.tensor([0.0, -1.0, -0.5, 0.0, -2.0, -1.0])
    terms = dpo(Outputs(logp=logp), pair_batch().with_streams(logp_ref=logp), beta=0.1)
    assert float(terms["dpo"].total) == pytest.approx(math.log(2))


def test_dpo_soft_label_one_half_has_zero_gradient_at_the_reference() -> None:
    logp = torch.zeros(6, requires_grad=True)
    batch = replace(pair_batch(), pair_streams={"label": torch.tensor([0.5])})
    terms = dpo(Outputs(logp=logp), batch.with_streams(logp_ref=torch.zeros(6)), beta=0.1)
    terms["dpo"].total.backward()
    assert logp.grad is not None
    assert torch.all(logp.grad == 0)


def test_bradley_terry_by_hand_with_margin_and_centring() -> None:
    scores = torch.tensor([2.0, 0.5])
    batch = replace(pair_batch(), pair_streams={"margin": torch.tensor([1.0])})
    terms = bradley_terry(Outputs(scores=scores), batch, centring=0.01)
    expected = math.log1p(math.exp(-0.5)) + 0.01 * 2.5**2
    assert float(reduce(terms, batch.counts())) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
def test_bradley_terry_is_finite_at_extreme_margins(gap: float) -> None:
    scores = torch.tensor([gap, 0.0], requires_grad=True)
    total = bradley_terry(Outputs(scores=scores), pair_batch())["bt"].total
    total.backward()
    assert float(total) == pytest.approx(max(-gap, 0.0))
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_grpo_advantage_by_hand() -> None:
    reward = torch.tensor([1.0, 2.0, 6.0, 4.0, 4.0, 9.0])
    group = torch.tensor([7, 7, 7, 3, 3, 1])
    assert group_relative(reward, group).tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]
    scaled = group_relative(reward, group, scale_by_std=True)
    std = math.sqrt((4 + 1 + 9) / 2)
    assert scaled.tolist() == pytest.approx([-2 / std, -1 / std, 3 / std, 0.0, 0.0, 0.0], rel=1e-5)


def test_equal_rewards_give_exactly_zero_even_where_the_mean_rounds() -> None:
    reward = torch.full((3,), 0.1)
    for scale in (False, True):
        assert group_relative(reward, torch.zeros(3, dtype=torch.long), scale_by_std=scale).tolist() == [
            0,
            0,
            0,
        ]


def test_failed_scores_are_left_out_of_the_group_and_get_no_advantage() -> None:
    reward = torch.tensor([1.0, 3.0, 0.0])
    valid = torch.tensor([True, True, False])
    assert group_relative(reward, torch.zeros(3, dtype=torch.long), valid).tolist() == [-1.0, 1.0, 0.0]


def rl_batch(advantage: float, logp_sample: float) -> Batch:
    batch = Batch.pack([Sequence((5, 1), (False, True))])
    return batch.with_streams(
        advantage=torch.tensor([0.0, advantage]),
        logp_sample=torch.tensor([0.0, logp_sample]),
        logp_ref=torch.tensor([0.0, -1.5]),
    )


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected_gradient"),
    [
        (1.0, 1.0, -1.0),  # on policy: the gradient of -A * ratio in log pi
        (1.0, 1.2, -1.2),  # inside the window
        (1.0, 1.5, 0.0),  # too likely already, and still pushed up: clipped
        (-1.0, 1.5, 1.5),  # too likely and pushed down: not clipped
        (-1.0, 0.5, 0.0),  # unlikely already, and still pushed down: clipped
    ],
)
def test_clipping_by_hand(advantage: float, ratio: float, expected_gradient: float) -> None:
    logp = torch.tensor([0.0, -1.0], requires_grad=True)
    batch = rl_batch(advantage, -1.0 - math.log(ratio))
    clipped(Outputs(logp=logp), batch)["pg"].total.backward()
    assert logp.grad is not None
    assert float(logp.grad[1]) == pytest.approx(expected_gradient, abs=1e-6)


def test_kl_in_the_loss_with_importance_has_the_reverse_kl_gradient() -> None:
    """E_{t ~ pi} [d/dtheta ratio * k3] equals d/dtheta KL(pi || ref), by exact enumeration."""
    torch.manual_seed(0)
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(5, dtype=torch.float64).log_softmax(0)
    logp = theta.log_softmax(0)
    p = logp.exp().detach()
    ratio = (logp - logp.detach()).exp()

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value.sum(), theta, retain_graph=True)[0]

    reverse = gradient(logp.exp() * (logp - ref))
    forward = gradient(ref.exp() * (ref - logp))
    torch.testing.assert_close(gradient(p * ratio * kl.estimate(logp, ref, "k3")), reverse)
    torch.testing.assert_close(gradient(p * kl.estimate(logp, ref, "k2")), reverse)
    torch.testing.assert_close(gradient(p * kl.estimate(logp, ref, "k3")), forward)
    k1 = gradient(p * kl.estimate(logp, ref, "k1"))
    torch.testing.assert_close(k1, torch.zeros_like(k1), atol=1e-12, rtol=0)


def test_k1_in_the_loss_is_refused() -> None:
    with pytest.raises(UserError, match="zero expected gradient"):
        kl.check("k1", "loss")


def test_nll_is_a_mean_over_trained_tokens_only() -> None:
    batch = Batch.pack([Sequence((5, 1, 2), (False, True, True)), Sequence((5, 3), (False, True))])
    batch = batch.with_streams(weight=torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]))
    logp = torch.tensor([0.0, -1.0, -9.0, 0.0, -3.0])
    assert float(reduce(nll(Outputs(logp=logp), batch), batch.counts())) == pytest.approx(2.0)


def test_a_step_without_trained_tokens_is_zero_and_not_nan() -> None:
    batch = Batch.pack([Sequence((5, 1), (False, True))]).with_streams(weight=torch.zeros(2))
    assert float(reduce(nll(Outputs(logp=torch.zeros(2)), batch), batch.counts())) == 0.0
