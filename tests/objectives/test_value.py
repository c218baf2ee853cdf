"""The critic's loss and the entropy bonus."""

from __future__ import annotations

import pytest
import torch

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.objectives import entropy
from rewardlab.objectives.reduction import reduce
from rewardlab.objectives.value import value_loss


def batch_of(old: list[float], target: list[float]) -> Batch:
    rows = [Sequence((0, *range(len(old))), (False, *[True] * len(old)))]
    zero = torch.zeros(1, dtype=torch.float64)
    return Batch.pack(rows).with_streams(
        **{
            "value": torch.cat([zero, torch.tensor(old, dtype=torch.float64)]),
            "return": torch.cat([zero, torch.tensor(target, dtype=torch.float64)]),
        }
    )


@pytest.mark.parametrize(
    ("old", "new", "target", "error", "slope"),
    [
        (0.0, 0.1, 1.0, 0.81, -0.9),  # inside the range
        (0.0, 0.5, 1.0, 0.64, 0.0),  # moved past the range towards the target: held
        (0.0, -0.5, 1.0, 2.25, -1.5),  # moved away from the target: still pulled back
        (0.0, 0.5, 0.5, 0.09, 0.0),  # on target, but too fast
    ],
)
def test_clipping_by_hand(old: float, new: float, target: float, error: float, slope: float) -> None:
    value = torch.tensor([0.0, new], dtype=torch.float64, requires_grad=True)
    terms = value_loss(value, batch_of([old], [target]), clip=0.2, coefficient=1.0)
    loss = reduce(terms, {"token": 1, "sequence": 1, "pair": 0})
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 * error)
    assert float(value.grad[1]) == pytest.approx(slope)
    assert float(terms["value_clipped"].total) == float(slope == 0.0)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_gradient_by_finite_differences(clip: float | None) -> None:
    batch = batch_of([0.1, -0.4, 2.0, 0.3], [1.0, 0.0, 1.5, 0.2])
    value = torch.tensor([9.0, 0.0, 0.5, 1.0, 0.35], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: value_loss(v, batch, clip=clip)["value_loss"].total, (value,))


def test_split_changes_no_value_gradient_and_masked_tokens_have_none() -> None:
    g = torch.Generator().manual_seed(0)
    rows = [Sequence(tuple(range(n)), (False, *[True] * (n - 1))) for n in (3, 5, 2)]
    batch = Batch.pack(rows)
    total = batch.ids.numel()
    batch = batch.with_streams(
        **{"value": torch.randn(total, generator=g), "return": torch.randn(total, generator=g)},
        weight=torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 1, 1]).float(),
    )
    batch.streams["return"][2] = float("nan")  # a masked token may hold anything

    def gradient(parts: list[list[int]]) -> torch.Tensor:
        v = torch.linspace(-1, 1, total).requires_grad_()
        terms = [value_loss(v[batch.tokens_of(p)], batch.select(p)) for p in parts]
        loss = torch.stack([reduce(t, batch.counts()) for t in terms]).sum()
        return torch.autograd.grad(loss, v)[0]

    whole = gradient([[0, 1, 2]])
    torch.testing.assert_close(gradient([[2], [1, 0]]), whole)
    assert not whole[[0, 2, 3, 5]].any()
    assert whole[1] != 0


def test_values_of_a_thousand_are_finite_and_no_clip_needs_no_old_value() -> None:
    batch = batch_of([0.0], [-1000.0])
    del batch.streams["value"]
    value = torch.tensor([0.0, 1000.0], requires_grad=True)
    loss = value_loss(value, batch, clip=None, coefficient=1.0)["value_loss"].total
    loss.backward()
    assert float(loss.detach()) == 0.5 * 2000.0**2
    assert float(value.grad[1]) == 2000.0


def test_entropy_bonus_has_the_gradient_of_the_entropy() -> None:
    """Through the whole distribution: finite differences on logits, and it raises the entropy."""
    batch = Batch.pack([Sequence((0, 1, 2), (False, True, True))])
    pad = torch.zeros(1, dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logp = logits.log_softmax(-1)
        h = torch.cat([pad, -(logp.exp() * logp).sum(-1)])
        return reduce(entropy.bonus(Outputs(entropy=h), batch, 0.3), batch.counts())

    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (logits,))
    step = torch.autograd.grad(loss(logits), logits)[0]
    assert float(step.abs().sum()) > 0
    assert float(loss(logits - 0.1 * step).detach()) < float(loss(logits).detach())


def test_entropy_is_reported_without_a_coefficient_and_then_not_trained() -> None:
    batch = Batch.pack([Sequence((0, 1, 2), (False, True, True))])
    h = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    terms = entropy.bonus(Outputs(entropy=h), batch)
    assert float(terms["entropy"].total) == 4.0
    assert not reduce(terms, batch.counts()).requires_grad


def test_adaptive_coefficient_rises_below_the_target_and_falls_above() -> None:
    c = 0.0
    for _ in range(3):
        c = entropy.adapt(c, 0.1, 0.2, step=0.01)
    assert c == pytest.approx(0.03)
    assert entropy.adapt(c, 0.3, 0.2, step=0.01) == pytest.approx(0.02)
    assert entropy.adapt(0.005, 0.3, 0.2, step=0.01) == 0.0
    assert entropy.adapt(0.995, 0.1, 0.2, step=0.01, maximum=1.0) == 1.0
    assert entropy.active(c, 0.1, 0.2) == c
    assert entropy.active(c, 0.3, 0.2) == 0.0
