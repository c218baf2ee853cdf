"""Learning from own answers: which of them fill the batch, with which reference, and resuming bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.models.engine import Engine
from rewardlab.records.run import Run, StageRecord
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.algorithms.iterative_dpo import IterativeDPO, IterativeDPOSettings
from rewardlab.training.algorithms.on_policy_distill import OnPolicyDistill, OnPolicyDistillSettings
from rewardlab.training.algorithms.online_dpo import OnlineDPO, OnlineDPOSettings
from rewardlab.training.algorithms.rejection_sampling import RejectionSampling, RejectionSettings
from rewardlab.training.experience import Experience, ExperienceSettings
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings
from support import tiny_policy

PROMPTS = [Prompt((Message("user", f"Question {i}"),), id=str(i)) for i in range(4)]
IDS = [[5, 9, 11], [7, 8], [40, 41, 42, 43], [12]]
COMMON = {"max_new_tokens": 5, "train_truncated": True, "samples_per_prompt": 4}


class Scripted:
    """Gives the scores it was told, in order, over and over."""

    name = "scripted"

    def __init__(self, *scores: Score | float) -> None:
        self.scores = [s if isinstance(s, Score) else Score(s) for s in scores]

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [self.scores[i % len(self.scores)] for i in range(len(rollouts))]


class OfTheIds:
    """A score that every answer has its own of."""

    name = "ids"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(sum(r.sequence.ids) % 17 / 17) for r in rollouts]


def record(folder: Path) -> StageRecord:
    return Run.open(folder, "name: t\n", seed=0).stage("online")


def experience(
    engine: Engine,
    reward: object,
    settings: ExperienceSettings,
    at_once: int = 2,
    kept: StageRecord | None = None,
) -> Experience:
    return Experience(engine, PROMPTS, IDS, reward, settings, prompts_at_once=at_once, seed=3, record=kept)


def online(reward: object, kept: StageRecord | None = None, **knobs: object) -> OnlineDPO:
    engine, settings = Engine(tiny_policy("qwen3")), OnlineDPOSettings(**{**COMMON, **knobs})
    return OnlineDPO(engine, experience(engine, reward, settings, kept=kept), settings)


def iterative(reward: object, kept: StageRecord | None = None, **knobs: object) -> IterativeDPO:
    engine, settings = Engine(tiny_policy("qwen3")), IterativeDPOSettings(**{**COMMON, **knobs})
    return IterativeDPO(engine, experience(engine, reward, settings, kept=kept), settings)


def rejection(reward: object, kept: StageRecord | None = None, **knobs: object) -> RejectionSampling:
    engine, settings = Engine(tiny_policy("qwen3")), RejectionSettings(**{**COMMON, **knobs})
    return RejectionSampling(engine, experience(engine, reward, settings, kept=kept), settings)


def distill(reward: object, kept: StageRecord | None = None, **knobs: object) -> OnPolicyDistill:
    engine, settings = Engine(tiny_policy("qwen3")), OnPolicyDistillSettings(**{**COMMON, **knobs})
    teacher = Engine(tiny_policy("qwen3", seed=1))
    return OnPolicyDistill(engine, teacher, experience(engine, None, settings, kept=kept), settings)


def shift(engine: Engine) -> None:
    with torch.no_grad():
        for p in engine.parameters.values():
            p.mul_(1.05)


def test_best_and_worst_make_the_pair_and_failures_do_not_compete(tmp_path: Path) -> None:
    kept = record(tmp_path / "r")
    (batch,), numbers = online(
        Scripted(2.0, Score.error("died"), -1.0, 3.0, 1.0, 1.0, 1.0, Score.abstain("?")), kept
    ).batches(0)
    rollouts = kept.read_rollouts(1)
    assert batch.size == 2
    assert batch.pairs.tolist() == [[0, 1]]
    ids = [tuple(part.tolist()) for part in batch.ids.split(batch.lengths.tolist())]
    assert ids == [rollouts[3].sequence.ids, rollouts[2].sequence.ids]
    assert numbers["pairs"] == 1
    assert numbers["prompts_without_pair"] == 1
    assert numbers["unscored"] == 2
    assert numbers["score_gap"] == 4.0


def test_the_reference_is_the_starting_policy() -> None:
    algorithm = online(Scripted(0.0, 1.0, 2.0, 3.0))
    start = Engine(tiny_policy("qwen3"))
    shift(algorithm.engine)
    (batch,), _ = algorithm.batches(0)
    torch.testing.assert_close(batch.streams["logp_ref"], start.frozen_logprobs(batch).logp)
    assert (batch.streams["logp_ref"] - batch.streams["logp_sample"]).abs().max() > 1e-3


def test_a_step_of_ties_takes_no_update_and_trains_on(tmp_path: Path) -> None:
    algorithm = online(Scripted(1.0))
    before = {k: p.detach().clone() for k, p in algorithm.engine.parameters.items()}
    at = train(algorithm, LoopSettings(steps=2), record(tmp_path / "r"))
    assert at.last["prompts_without_pair"] == 2
    assert "loss" not in at.last
    assert all(torch.equal(before[k], p) for k, p in algorithm.engine.parameters.items())


def test_truncated_answers_do_not_compete_unless_asked() -> None:
    algorithm = online(OfTheIds(), train_truncated=False, samples_per_prompt=2, max_new_tokens=1)
    updates, numbers = algorithm.batches(0)
    assert numbers["stop_rate"] < 1
    assert numbers["pairs"] == 0
    assert updates == []


def test_losses_without_reference_keep_no_second_model() -> None:
    algorithm = online(Scripted(0.0, 1.0, 2.0, 3.0), loss="simpo")
    (batch,), _ = algorithm.batches(0)
    assert algorithm.reference is None
    assert "logp_ref" not in batch.streams


def test_deviation_weights_need_given_pairs() -> None:
    with pytest.raises(UserError, match="no deviation"):
        online(Scripted(1.0), deviation_floor=-0.8)


def ages(algorithm: IterativeDPO, steps: int) -> list[dict[str, float]]:
    return [dict(algorithm.batches(step)[1]) for step in range(steps)]


@pytest.mark.parametrize(
    ("buffer", "sizes", "oldest"),
    [
        ("current", [2, 2, 2, 2], [0, 0, 0, 0]),
        ("rolling:2", [2, 4, 4, 4], [0, 1, 1, 1]),
        ("full", [2, 4, 6, 8], [0, 1, 2, 3]),
    ],
)
def test_the_buffer_over_rounds(buffer: str, sizes: list[int], oldest: list[int]) -> None:
    algorithm = iterative(Scripted(0.0, 1.0, 2.0, 3.0), buffer=buffer, updates_per_round=3, pairs_per_step=8)
    found = ages(algorithm, 12)
    assert [row["buffer"] for row in found[::3]] == sizes
    assert [max(row["pair_age_steps_max"] for row in found[i : i + 3]) for i in range(0, 12, 3)] == [
        3 * o + 2 for o in oldest
    ]
    # In the third round, 8 rows of the buffer's equal shares: the mean age is that of the rounds kept.
    assert found[6]["pair_age_rounds"] == pytest.approx(
        {"current": 0, "rolling:2": 0.5}.get(buffer, 1), abs=0.4
    )
    assert "reward" in found[3]
    assert "reward" not in found[4]


def test_the_reference_is_the_policy_at_the_rounds_start_for_old_pairs_too() -> None:
    settings = {"buffer": "full", "updates_per_round": 2, "pairs_per_step": 4}
    moved, fixed = (
        iterative(OfTheIds(), reference=reference, **settings) for reference in ("round", "start")
    )
    for algorithm, is_moved in ((moved, True), (fixed, False)):
        start = Engine(tiny_policy("qwen3"))
        algorithm.batches(0)
        shift(algorithm.engine)
        (batch,), _ = algorithm.batches(1)  # same round: still the start
        torch.testing.assert_close(batch.streams["logp_ref"], start.frozen_logprobs(batch).logp)
        (batch,), numbers = algorithm.batches(2)
        expected = algorithm.engine if is_moved else start
        assert numbers["buffer"] == 4
        torch.testing.assert_close(batch.streams["logp_ref"], expected.frozen_logprobs(batch).logp)


def kept_of(folder: Path, **knobs: object) -> tuple[list[float], float, int]:
    scores = (2.0, 5.0, Score.error("died"), 5.0, 1.0, 0.0, 4.0, 3.0)
    kept = record(folder)
    (batch,), numbers = rejection(Scripted(*scores), kept, **knobs).batches(0)
    return [r.score.value for r in _kept_rollouts(kept, batch)], numbers["kept_reward"], batch.size


def _kept_rollouts(kept: StageRecord, batch: object) -> list[Rollout]:
    ids = [tuple(part.tolist()) for part in batch.ids.split(batch.lengths.tolist())]
    rollouts = {r.sequence.ids: r for r in kept.read_rollouts(1)}
    assert len(rollouts) == 8
    return [rollouts[i] for i in ids]


def test_rejection_sampling_keeps_what_it_should(tmp_path: Path) -> None:
    assert kept_of(tmp_path / "best") == ([5.0, 4.0], 4.5, 2)
    assert kept_of(tmp_path / "top", keep="top_fraction", top_fraction=0.4) == ([5.0, 5.0, 4.0], 14 / 3, 3)
    assert kept_of(tmp_path / "all", keep="threshold", threshold=3.0) == ([5.0, 5.0, 4.0, 3.0], 17 / 4, 4)


def test_a_threshold_that_nothing_reaches_takes_no_update() -> None:
    updates, numbers = rejection(Scripted(1.0), keep="threshold", threshold=2.0).batches(0)
    assert updates == []
    assert numbers["kept"] == 0


def test_the_loss_is_the_mean_over_kept_tokens() -> None:
    algorithm = rejection(Scripted(0.0, 1.0, 2.0, 3.0))
    (batch,), _ = algorithm.batches(0)
    term = algorithm.objective(algorithm.engine.logprobs(batch), batch)["nll"]
    expected = -batch.streams["logp_sample"].sum()
    torch.testing.assert_close(term.total.detach(), expected, rtol=1e-5, atol=1e-5)
    assert batch.counts()[term.unit] == int(batch.action.sum())


class KilledError(Exception):
    """Stands for the end of the process."""


def kill_at(step: int) -> Callable[[int, object], None]:
    def callback(at: int, _: object) -> None:
        if at == step:
            raise KilledError

    return callback


@pytest.mark.parametrize(
    ("make", "knobs"),
    [
        (online, {"loss": {"bco_pair": 1.0}, "bco_momentum": 0.9}),
        (iterative, {"buffer": "rolling:2", "updates_per_round": 3, "pairs_per_step": 3, "temperature": 0.7}),
        (iterative, {"buffer": "full", "updates_per_round": 2, "reference": "start", "pairs_per_step": 3}),
        (iterative, {"buffer": "full", "updates_per_round": 3, "loss": "simpo", "pairs_per_step": 3}),
        (rejection, {}),
        (distill, {"top_k": 5}),
        (distill, {"method": "policy_gradient", "discount": 0.5}),
    ],
)
def test_killed_and_started_again_gives_the_same_bits(
    make: Callable[..., Algorithm], knobs: dict[str, object], tmp_path: Path
) -> None:
    loop = LoopSettings(steps=7, checkpoint_every=2, optimiser=OptimiserSettings(learning_rate=1e-3))
    whole = record(tmp_path / "whole")
    expected = make(OfTheIds(), whole, **knobs)
    train(expected, loop, whole)
    cut = record(tmp_path / "cut")
    for step in (3, 5):
        with pytest.raises(KilledError):
            train(make(OfTheIds(), cut, **knobs), loop, cut, callbacks=(kill_at(step),))
    found = make(OfTheIds(), cut, **knobs)
    train(found, loop, cut)
    for name, parameter in expected.engine.parameters.items():
        assert torch.equal(parameter, found.engine.parameters[name]), name
    rows = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in kept.read_metrics()] for kept in (whole, cut)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 7
    assert [whole.read_rollouts(s) for s in whole.rollout_steps()] == [
        cut.read_rollouts(s) for s in cut.rollout_steps()
    ]
