"""Iterative data smoothing inside the training of a reward model: labels that move, and survive a crash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.records.run import Run, StageRecord
from rewardlab.training.algorithms.reward import RewardModelling
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings
from rewardlab.training.pairs import PairRow, pack_pairs
from support import tiny_reward_model


def modelling(rate: float, pairs_per_step: int = 4) -> RewardModelling:
    g = torch.Generator().manual_seed(0)

    def sequence() -> Sequence:
        return Sequence(tuple(torch.randint(0, 60, (6,), generator=g).tolist()), (False, *([True] * 5)))

    rows = [PairRow(sequence(), sequence()) for _ in range(6)]
    engine = Engine(tiny_reward_model("qwen3"))
    return RewardModelling(
        engine, rows, rows[:2], pairs_per_step=pairs_per_step, centring=0.0, seed=0, smoothing_rate=rate
    )


def record(folder: Path) -> StageRecord:
    return Run.open(folder, "name: t\n", seed=0).stage("reward")


def loop(steps: int) -> LoopSettings:
    steady = OptimiserSettings(learning_rate=3e-3, schedule="constant", warmup_fraction=0.0)
    return LoopSettings(steps=steps, checkpoint_every=2, optimiser=steady)


def test_labels_move_once_per_epoch_towards_the_model() -> None:
    """Six pairs in steps of four: steps 0 and 1 begin in epoch 0, step 2 in epoch 1, step 3 in epoch 2."""
    it = modelling(0.25)
    scores = it.engine.frozen_scores(pack_pairs(it.rows))
    own = torch.sigmoid(scores[::2] - scores[1::2])
    expected = torch.ones(6)
    for step, moved in ((0, 0), (1, 0), (2, 1), (3, 1)):
        (batch,), _ = it.batches(step)
        if moved:
            expected = 0.75 * expected + 0.25 * own
        torch.testing.assert_close(batch.pair_streams["label"], expected[it.sampler.indices(step)])
    assert it.evaluate().keys() >= {"eval_bt", "eval_accuracy"}


def test_a_model_that_fits_its_labels_is_held_back(tmp_path: Path) -> None:
    """Trained long on six arbitrary labels, the smoothed model is less sure of them."""

    def confidence(rate: float) -> tuple[float, float]:
        it = modelling(rate, pairs_per_step=6)
        train(it, loop(40), record(tmp_path / str(rate)))
        scores = it.engine.frozen_scores(pack_pairs(it.rows))
        return float((scores[::2] - scores[1::2]).mean()), float(it.labels.mean())

    (plain, certain), (smoothed, soft) = confidence(0.0), confidence(0.3)
    assert certain == 1
    assert 0.5 < soft < 1
    assert 0 < smoothed < plain


class KilledError(Exception):
    """Stands in for kill -9."""


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    def die(step: int, _: Mapping[str, float]) -> None:
        if step == 5:
            raise KilledError

    whole, cut, resumed = (modelling(0.3) for _ in range(3))
    train(whole, loop(8), record(tmp_path / "whole"))
    with pytest.raises(KilledError):
        train(cut, loop(8), record(tmp_path / "cut"), callbacks=(die,))
    train(resumed, loop(8), record(tmp_path / "cut"))
    assert torch.equal(whole.labels, resumed.labels)
    for name, p in whole.engine.parameters.items():
        assert torch.equal(p, resumed.engine.parameters[name]), name


def test_without_smoothing_no_state_is_kept() -> None:
    it = modelling(0.0)
    it.batches(5)
    assert it.state() == {}
    with pytest.raises(ValueError, match="keeps no state"):
        it.load_state({"labels": torch.ones(6), "epoch": 1})
