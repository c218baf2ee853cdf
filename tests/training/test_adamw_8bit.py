"""AdamW with moments of a byte each trains as AdamW does, in a quarter of the state, and resumes in its bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.models.loading import ModelSettings, load_policy
from rewardlab.records.run import Run
from rewardlab.records.state import load_state, save_state
from rewardlab.training import optimiser
from rewardlab.training.adamw_8bit import BLOCK, dynamic_map, pack, unpack
from rewardlab.training.algorithms.sft import SFT
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings

SETTINGS = {s: OptimiserSettings(state=s, learning_rate=0.02, weight_decay=0.1) for s in ("fp32", "8bit")}


def rounded(x: Tensor, *, signed: bool, seed: int = 0) -> Tensor:
    codes, scale = torch.empty(x.numel(), dtype=torch.uint8), torch.empty(-(-x.numel() // BLOCK))
    pack(x, codes, scale, signed=signed, generator=torch.Generator().manual_seed(seed))
    return unpack(codes, scale, signed=signed)


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_has_a_byte_of_different_values_about_as_dense_at_every_size(signed: bool) -> None:
    levels = dynamic_map(signed)
    assert levels.unique().numel() == 256
    assert {0.0, 1.0} <= set(levels.tolist())
    above = levels[levels > 1e-3]
    assert float((above[1:] / above[:-1]).max()) < (1.6 if signed else 1.3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700), st.floats(-8, 8), st.booleans(), st.integers(0, 99))
def test_rounding_is_to_a_neighbour_whatever_the_scale(n: int, log: float, signed: bool, seed: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 10**log
    x = x if signed else x.abs()
    found = rounded(x, signed=signed, seed=seed)
    top = torch.stack([b.abs().max() for b in x.split(BLOCK)]).repeat_interleave(BLOCK)[:n]
    gap = 0.9 / (64 if signed else 128)
    assert bool(((found - x).abs() <= gap * top * 1.01).all())


def test_rounding_is_right_on_average_and_keeps_zero() -> None:
    x = torch.cat([torch.linspace(-1, 0.9, 200), torch.zeros(3), torch.ones(1)])
    mean = torch.stack([rounded(x, signed=True, seed=s) for s in range(400)]).mean(0)
    inner = x > -0.99  # the map ends there
    torch.testing.assert_close(mean[inner], x[inner], rtol=0, atol=1.5e-3)
    assert bool((rounded(x, signed=True)[200:203] == 0).all())


def test_a_small_second_moment_never_becomes_zero() -> None:
    """Or the next step of that weight would have no divisor."""
    x = torch.tensor([1.0, 1e-12, 0.0])
    found = rounded(x, signed=False)
    assert found[1] > 0
    assert found[2] == 0


def quadratic(state: str, steps: int = 300) -> float:
    """sum c_i (w_i - 1)^2 / 2 with curvatures over four decades, after so many steps from 0."""
    w = torch.nn.Parameter(torch.zeros(64, 128))
    curvature = torch.logspace(-4, 0, w.numel()).view_as(w)
    made = SETTINGS[state].model_copy(update={"weight_decay": 0.0})
    adam = optimiser.build(made, {"w": w})
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = optimiser.rate(made, step, steps)
        adam.zero_grad()
        loss = 0.5 * (curvature * (w - 1) ** 2).sum()
        loss.backward()
        adam.step()
    return float(loss.detach())


def test_a_quadratic_is_solved_as_well_up_to_rounding() -> None:
    start = float(0.5 * torch.logspace(-4, 0, 64 * 128).sum())
    assert quadratic("fp32") < 1e-4 * start
    assert quadratic("8bit") < 1e-4 * start


def sft(folder: Path, state: str, steps: int = 20) -> tuple[list[float], Engine]:
    torch.manual_seed(0)
    engine = Engine(load_policy(ModelSettings(path="embedded:advice-base")))
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 200, (16, 24), generator=draw).tolist()
    rows = [Sequence(tuple(r), tuple(i > 3 for i in range(24))) for r in ids]
    algorithm = SFT(engine, rows, [], rows_per_step=8, seed=0)
    record = Run.open(folder, "", seed=0).stage("sft")
    made = OptimiserSettings(state=state, learning_rate=1e-3, schedule="constant")
    train(algorithm, LoopSettings(steps=steps, checkpoint_every=10, optimiser=made), record)
    return [row["loss"] for row in record.read_metrics()], engine


def test_sft_learns_as_fast_with_a_quarter_of_the_state(tmp_path: Path) -> None:
    exact, _ = sft(tmp_path / "fp32", "fp32")
    small, _ = sft(tmp_path / "8bit", "8bit")
    assert exact[-1] < 0.8 * exact[0]
    assert small[-1] < 1.03 * exact[-1]
    saved = [sum(f.stat().st_size for f in (tmp_path / s).rglob("state.safetensors")) for s in SETTINGS]
    assert saved[1] < 0.55 * saved[0]  # 4 bytes of weight and 2 of state, instead of 4 and 8


def test_a_killed_run_ends_in_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    whole, engine = sft(tmp_path / "run", "8bit", 12)
    shutil.rmtree(tmp_path / "run" / "stages" / "sft" / "checkpoints" / "step-000012")
    again, resumed = sft(tmp_path / "run", "8bit", 12)
    assert again == whole
    for name, p in engine.parameters.items():
        assert torch.equal(p, resumed.parameters[name]), name


def test_state_goes_through_a_checkpoint_unchanged(tmp_path: Path) -> None:
    def made() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        w = torch.nn.Parameter(torch.linspace(-1, 1, 8192).view(64, 128))
        return w, optimiser.build(SETTINGS["8bit"], {"w": w, "b": torch.nn.Parameter(torch.ones(3))})

    def step(w: torch.nn.Parameter, adam: torch.optim.Optimizer, seed: int) -> None:
        for group in adam.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        adam.step()

    w, adam = made()
    step(w, adam, 1)
    save_state(tmp_path, adam.state_dict())
    other_w, other = made()
    other.load_state_dict(load_state(tmp_path))
    with torch.no_grad():
        other_w.copy_(w)
    for a, b in zip(adam.state.values(), other.state.values(), strict=True):
        assert {k: getattr(v, "dtype", None) for k, v in a.items()} == {
            k: getattr(v, "dtype", None) for k, v in b.items()
        }
    step(w, adam, 2)
    step(other_w, other, 2)
    assert torch.equal(w, other_w)
