"""AdamW with its state elsewhere: the updates of AdamW, and the bits of a run that was not stopped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from rewardlab.training import optimiser
from rewardlab.training.adamw_offloaded import AdamWOffloaded
from rewardlab.training.optimiser import OptimiserSettings


def parameters() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {k: torch.randn(n, generator=g).requires_grad_() for k, n in (("w", (5, 7)), ("b", (7,)))}


def train(found: torch.optim.Optimizer, own: dict[str, Tensor], steps: range) -> None:
    for step in steps:
        for group in found.param_groups:
            group["lr"] = 0.1 / (1 + step)
        found.zero_grad(set_to_none=True)
        (own["w"].sin().sum() * own["b"].sum() + (own["b"] ** 2).sum()).backward()
        found.step()


def build(state: str, own: dict[str, Tensor]) -> torch.optim.Optimizer:
    return optimiser.build(OptimiserSettings(state=state, weight_decay=0.1), own)


def test_the_updates_are_those_of_adamw() -> None:
    here, there = parameters(), parameters()
    train(build("fp32", here), here, range(5))
    train(build("offloaded", there), there, range(5))
    for name in here:
        assert torch.equal(here[name], there[name])


def test_its_copies_are_never_the_parameters_themselves() -> None:
    own = parameters()
    found = build("offloaded", own)
    assert isinstance(found, AdamWOffloaded)
    held = {p.data_ptr() for group in found.param_groups for p in group["params"]}
    assert held.isdisjoint(p.data_ptr() for p in own.values())


def test_a_resumed_run_ends_in_the_same_bits() -> None:
    whole, stopped, again = parameters(), parameters(), parameters()
    train(build("offloaded", whole), whole, range(6))
    first = build("offloaded", stopped)
    train(first, stopped, range(3))
    second = build("offloaded", again)
    with torch.no_grad():
        for name in again:  # as a checkpoint is taken back: parameters first
            again[name].copy_(stopped[name])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, again, range(3, 6))
    for name in whole:
        assert torch.equal(whole[name], again[name])


def test_a_parameter_without_gradient_stays() -> None:
    own = parameters()
    before = own["b"].detach().clone()
    found = build("offloaded", own)
    own["w"].sum().backward()
    found.step()
    assert torch.equal(own["b"], before)
    assert not torch.equal(own["w"], parameters()["w"])
