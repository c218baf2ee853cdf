"""GRPO fills its batch from scores: failures are left out, equal groups teach nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.models.engine import Engine
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.experience import Experience
from support import tiny_policy

PROMPTS = [Prompt((Message("user", f"Question {i}"),), id=str(i)) for i in range(4)]
IDS = [[5, 9, 11], [7, 8], [40, 41, 42, 43], [12]]


class Scripted:
    """Gives the scores it was told, in order, over and over."""

    name = "scripted"

    def __init__(self, *scores: Score) -> None:
        self.scores = scores

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [self.scores[i % len(self.scores)] for i in range(len(rollouts))]


def grpo(*scores: Score, **settings: object) -> GRPO:
    knobs = {
        "prompts_per_step": 2,
        "samples_per_prompt": 4,
        "max_new_tokens": 6,
        "train_truncated": True,
        **settings,
    }
    engine, s = Engine(tiny_policy("qwen3")), GRPOSettings(**knobs)
    experience = Experience(
        engine, PROMPTS, IDS, Scripted(*scores), s, prompts_at_once=s.prompts_per_step, seed=0
    )
    return GRPO(engine, experience, s)


def test_advantages_and_weights_by_hand() -> None:
    algorithm = grpo(Score(1.0), Score(3.0), Score.error("died"), Score.abstain("?"))
    (batch,), numbers = algorithm.batches(0)
    last = batch.offsets[1:] - 1
    assert batch.streams["advantage"][last].tolist() == [-1.0, 1.0, 0.0, 0.0] * 2
    assert batch.streams["weight"][last].tolist() == [1.0, 1.0, 0.0, 0.0] * 2
    assert (batch.streams["advantage"][~batch.action] == 0).all()
    assert numbers["unscored"] == 4
    assert numbers["reward"] == 2.0
    assert numbers["equal_groups"] == 0.0


def test_equal_rewards_give_a_zero_gradient() -> None:
    algorithm = grpo(Score(0.1), kl_coefficient=0.0)
    (batch,), numbers = algorithm.batches(0)
    assert numbers["equal_groups"] == 1.0
    out = algorithm.engine.logprobs(batch, entropy=True)
    algorithm.objective(out, batch)["pg"].total.backward()
    assert all(p.grad is None or not p.grad.any() for p in algorithm.engine.parameters.values())


def test_truncated_answers_are_not_trained_on_by_default() -> None:
    (batch,), numbers = grpo(Score(1.0), Score(2.0), train_truncated=False).batches(0)
    cut = torch.tensor([float(batch.streams["weight"][b - 1]) == 0.0 for b in batch.offsets[1:].tolist()])
    assert numbers["stop_rate"] == pytest.approx(1 - float(cut.float().mean()))


def test_drift_between_sampler_and_trainer_is_measured_and_tiny() -> None:
    algorithm = grpo(Score(1.0), Score(2.0), temperature=0.8)
    (batch,), _ = algorithm.batches(0)
    terms = algorithm.objective(algorithm.engine.logprobs(batch, entropy=True), batch)
    tokens = batch.counts()["token"]
    assert 0 <= float(terms["drift"].total) / tokens < 1e-5
    assert float(terms["ratio"].total) / tokens == pytest.approx(1.0, abs=1e-5)


def test_updates_split_whole_groups() -> None:
    batches, _ = grpo(Score(1.0), Score(2.0), prompts_per_step=4, updates_per_step=2).batches(0)
    assert [sorted(set(b.group.tolist())) for b in batches] == [[0, 1], [2, 3]]
    assert [b.size for b in batches] == [8, 8]


def test_kl_in_the_reward_moves_the_advantage() -> None:
    algorithm = grpo(Score(1.0), kl_coefficient=0.5, kl_estimator="k1", kl_placement="reward")
    with torch.no_grad():
        for p in algorithm.engine.parameters.values():
            p.mul_(1.05)
    (batch,), numbers = algorithm.batches(0)
    assert batch.streams["advantage"].abs().max() > 0
    assert "kl_loss" not in algorithm.objective(algorithm.engine.logprobs(batch, entropy=True), batch)
    assert numbers["reward"] == 1.0


def test_k1_in_the_loss_is_refused_before_any_work() -> None:
    with pytest.raises(UserError, match="zero expected gradient"):
        grpo(Score(1.0), kl_coefficient=0.1, kl_estimator="k1", kl_placement="loss")
