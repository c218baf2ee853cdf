"""The loop: global counts, a guard against non-finite steps, early stopping, the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.reduction import Term, Terms
from rewardlab.objectives.supervised import nll
from rewardlab.records.run import Run, StageRecord
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings, rate
from support import tiny_policy

ROWS = [Sequence((5, *range(n, 2 * n)), (False, *(True,) * n)) for n in (2, 9, 4, 7)]


class Imitate(Algorithm):
    """All rows at every step; the loss can be poisoned at chosen steps."""

    def __init__(self, engine: Engine, poison: tuple[int, ...] = (), losses: tuple[float, ...] = ()) -> None:
        self.engine, self.poison, self.losses = engine, poison, list(losses)
        self.step = -1

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        self.step = step
        return [Batch.pack(ROWS)], {}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        terms = nll(out, batch)
        if self.step in self.poison:
            return {"nll": Term(terms["nll"].total * math.nan, "token")}
        return terms

    def evaluate(self) -> Mapping[str, float]:
        return {"eval_loss": self.losses.pop(0)} if self.losses else {}


def record(folder: Path) -> StageRecord:
    return Run.open(folder, "name: t\n", seed=0).stage("sft")


def weights(engine: Engine) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in engine.parameters.values()])


@settings(deadline=None, max_examples=8)
@given(budget=st.integers(1, 60), layout=st.sampled_from(["padded", "packed"]))
def test_a_step_does_not_depend_on_how_it_is_split(
    budget: int, layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = []
    for setting in (
        EngineSettings(tokens_per_microbatch=10**6),
        EngineSettings(tokens_per_microbatch=budget, layout=layout),
    ):
        engine = Engine(tiny_policy(), setting)
        loop = LoopSettings(steps=2, optimiser=OptimiserSettings(learning_rate=1e-3))
        train(Imitate(engine), loop, record(tmp_path_factory.mktemp("run") / "r"))
        found.append(weights(engine))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=0)


def test_a_non_finite_loss_is_skipped_counted_and_never_stepped_on(tmp_path: Path) -> None:
    engine = Engine(tiny_policy())
    before = weights(engine)
    one = train(Imitate(engine, poison=(0,)), LoopSettings(steps=1), record(tmp_path / "a"))
    assert one.skipped == 1
    assert torch.equal(weights(engine), before)
    rows = record(tmp_path / "a").read_metrics()
    assert rows[0]["skipped_updates"] == 1
    assert "loss" not in rows[0]
    clean, poisoned = Engine(tiny_policy()), Engine(tiny_policy())
    train(Imitate(clean), LoopSettings(steps=3), record(tmp_path / "b"))
    train(Imitate(poisoned, poison=(1,)), LoopSettings(steps=3), record(tmp_path / "c"))
    assert torch.isfinite(weights(poisoned)).all()
    assert not torch.equal(weights(clean), weights(poisoned))


def test_a_run_that_only_produces_nan_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all of the first 20 updates"):
        train(
            Imitate(Engine(tiny_policy()), poison=tuple(range(99))),
            LoopSettings(steps=99),
            record(tmp_path / "r"),
        )


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    engine = Engine(tiny_policy())
    snapshots = []

    def snapshot(step: int, _: Mapping[str, float]) -> None:
        snapshots.append(weights(engine))

    loop = LoopSettings(steps=50, evaluate_every=1, patience=2)
    algorithm = Imitate(engine, losses=(3.0, 2.0, 2.5, 2.4, 1.0))
    at = train(algorithm, loop, record(tmp_path / "r"), callbacks=(snapshot,))
    assert at.step == 4
    assert torch.equal(weights(engine), snapshots[1])


def test_the_schedule_by_hand() -> None:
    linear = OptimiserSettings(learning_rate=1.0, warmup_fraction=0.2, schedule="linear")
    assert [rate(linear, s, 10) for s in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    cosine = OptimiserSettings(learning_rate=2.0, warmup_fraction=0.0, schedule="cosine", final_fraction=0.1)
    assert rate(cosine, 5, 10) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))


def test_gradients_are_clipped_by_global_norm(tmp_path: Path) -> None:
    """With plain momentum-free steps the update of a huge loss is as long as the norm allows: AdamW hides
    that, so the recorded norm is compared with the gradient computed by hand."""
    engine = Engine(tiny_policy())
    batch = Batch.pack(ROWS)
    loss = -(engine.logprobs(batch).logp * batch.weight).sum() / batch.counts()["token"]
    loss.backward()
    expected = math.sqrt(
        sum(float(p.grad.pow(2).sum()) for p in engine.parameters.values() if p.grad is not None)
    )
    train(Imitate(engine), LoopSettings(steps=1), record(tmp_path / "r"))
    assert record(tmp_path / "r").read_metrics()[0]["grad_norm"] == pytest.approx(expected, rel=1e-4)
