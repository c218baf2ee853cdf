"""KL: value and gradient of each estimator by exact enumeration, controllers, range."""

from __future__ import annotations

import pytest
import torch

from rewardlab.core.errors import UserError
from rewardlab.objectives import kl

V = 6


class Categorical:
    """A policy, the policy its samples came from, and a reference, over a vocabulary of six."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)

        def logits() -> torch.Tensor:
            return torch.randn(V, generator=g, dtype=torch.float64)

        self.theta = logits().requires_grad_()
        self.logp = self.theta.log_softmax(0)
        self.ref = logits().log_softmax(0)
        self.old = (self.theta.detach() + 0.5 * logits()).log_softmax(0)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, self.theta, retain_graph=True)[0]

    @property
    def exact(self) -> dict[str, torch.Tensor]:
        p, r = self.logp.exp(), self.ref.exp()
        return {"reverse": (p * (self.logp - self.ref)).sum(), "forward": (r * (self.ref - self.logp)).sum()}


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest) -> Categorical:
    return Categorical(request.param)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("estimator", ["k1", "k3", "k3+"])
def test_values_are_unbiased(case: Categorical, estimator: kl.Estimator, direction: kl.Direction) -> None:
    p = case.logp.exp().detach()
    found = (p * kl.estimate(case.logp, case.ref, estimator, direction)).sum()
    torch.testing.assert_close(found, case.exact[direction])


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_are_never_negative(
    case: Categorical, estimator: kl.Estimator, direction: kl.Direction
) -> None:
    assert (kl.estimate(case.logp, case.ref, estimator, direction) >= -1e-12).all()


@pytest.mark.parametrize(
    ("estimator", "direction"),
    [("k2", "reverse"), ("k3", "reverse"), ("k3+", "reverse"), ("k3", "forward"), ("k3+", "forward")],
)
@pytest.mark.parametrize("stale", [False, True])
def test_expected_gradient_of_the_loss_is_the_divergences(
    case: Categorical, estimator: kl.Estimator, direction: kl.Direction, stale: bool
) -> None:
    """Over fresh samples and over samples of an older policy."""
    old = case.old if stale else case.logp.detach()
    per_token = kl.loss(case.logp, case.ref, estimator, direction=direction, log_ratio=case.logp - old)
    found = case.gradient((old.exp() * per_token).sum())
    torch.testing.assert_close(found, case.gradient(case.exact[direction]))


def test_straight_through_has_the_value_of_k3_and_the_gradient_of_k2(case: Categorical) -> None:
    found = kl.loss(case.logp, case.ref, "k3+")
    torch.testing.assert_close(found, kl.estimate(case.logp, case.ref, "k3"))
    k2 = kl.estimate(case.logp, case.ref, "k2")
    torch.testing.assert_close(case.gradient(found.sum()), case.gradient(k2.sum()))


def test_plain_k3_in_the_loss_pulls_along_the_forward_kl(case: Categorical) -> None:
    """V6, and the trap: without the ratio the reverse k3 has the forward KL's gradient."""
    p = case.logp.exp().detach()
    found = case.gradient((p * kl.loss(case.logp, case.ref, "k3")).sum())
    torch.testing.assert_close(found, case.gradient(case.exact["forward"]))
    k1 = case.gradient((p * kl.estimate(case.logp, case.ref, "k1")).sum())
    torch.testing.assert_close(k1, torch.zeros_like(k1), atol=1e-12, rtol=0)


def test_ratio_times_k2_would_not_be_the_reverse_kl(case: Categorical) -> None:
    """Why k2 takes the detached ratio."""
    p = case.logp.exp()
    wrong = case.gradient((p * kl.estimate(case.logp, case.ref, "k2")).sum())
    assert not torch.allclose(wrong, case.gradient(case.exact["reverse"]), atol=1e-3)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_full_is_exact_with_its_gradient(case: Categorical, direction: kl.Direction) -> None:
    found = kl.full(case.logp[None], case.ref[None], direction)[0]
    torch.testing.assert_close(found, case.exact[direction])
    torch.testing.assert_close(case.gradient(found), case.gradient(case.exact[direction]))
    logits = torch.randn(2, V, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: kl.full(x.log_softmax(-1), case.ref.expand(2, -1), direction), (logits,)
    )


def test_full_with_impossible_tokens() -> None:
    p = torch.tensor([0.5, 0.5, 0.0]).log().requires_grad_()
    q = torch.tensor([0.25, 0.25, 0.5]).log()
    found = kl.full(p, q)
    assert float(found.detach()) == pytest.approx(0.6931, abs=1e-4)
    found.backward()
    assert torch.isfinite(p.grad).all()
    assert float(kl.full(q, p.detach())) == float("inf")


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_gradient_by_finite_differences(estimator: kl.Estimator, direction: kl.Direction) -> None:
    logp = torch.tensor([-0.2, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-0.5, -0.9, -1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl.estimate(x, ref, estimator, direction), (logp,))


@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_finite_at_a_thousand_nats(gap: float, direction: kl.Direction, estimator: kl.Estimator) -> None:
    if direction == "forward" and estimator == "k2":
        with pytest.raises(UserError, match="not of the forward"):
            kl.check(estimator, "loss", direction)
        return
    logp = torch.tensor([gap], requires_grad=True)
    found = kl.loss(logp, torch.zeros(1), estimator, direction=direction, log_ratio=logp * 1.0)
    found.backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logp.grad).all()


@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_a_token_far_below_the_reference_is_never_pushed_further_down(estimator: kl.Estimator) -> None:
    logp = torch.tensor([-1000.0, -30.0, -1.0], requires_grad=True)
    kl.loss(logp, torch.zeros(3), estimator).sum().backward()
    assert (logp.grad <= 0).all()
    assert logp.grad[2] < 0


def test_k1_is_refused_in_the_loss_only() -> None:
    kl.check("k1", "reward")
    with pytest.raises(UserError, match="zero expected gradient"):
        kl.loss(torch.zeros(1), torch.zeros(1), "k1")


def test_adaptive_controller_by_hand() -> None:
    assert kl.adaptive(0.1, 0.06, 0.05, samples=100, horizon=1000) == pytest.approx(0.1 * 1.02)
    assert kl.adaptive(0.1, 9.0, 0.05, samples=100, horizon=1000) == pytest.approx(0.1 * 1.02)
    assert kl.adaptive(0.1, 0.0, 0.05, samples=100, horizon=1000) == pytest.approx(0.1 * 0.98)
    with pytest.raises(UserError):
        kl.adaptive(0.1, 0.0, 0.0, samples=1)


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_controllers_settle_where_the_kl_meets_the_target(start: float) -> None:
    """A plant whose KL falls as 1 / (1 + coefficient): the target 0.2 is met at coefficient 4."""
    price, c = start, start + 0.01
    for _ in range(4000):
        price = kl.budgeted(price, 1 / (1 + price), 0.2, rate=0.5)
        c = kl.adaptive(c, 1 / (1 + c), 0.2, samples=100, horizon=1000)
    assert price == pytest.approx(4.0, abs=1e-3)
    assert c == pytest.approx(4.0, abs=1e-3)


def test_an_unused_budget_costs_nothing() -> None:
    price = 1.0
    for _ in range(100):
        price = kl.budgeted(price, 0.01, 0.2, rate=0.5)
    assert price == 0.0
    assert kl.budgeted(9.9, 100.0, 0.2, rate=1.0, maximum=10.0) == 10.0
