"""A recipe chooses loss, advantage, aggregation and correction; each trains a real tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.advantage import AdvantageName
from rewardlab.objectives.policy_gradient import LossName
from rewardlab.objectives.reduction import reduce
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.experience import Experience
from support import tiny_policy

PROMPTS = [Prompt((Message("user", f"Question {i}"),), id=str(i)) for i in range(2)]
POLICY = tiny_policy("llama")


class Cycle:
    """Rewards one answer in five."""

    name = "cycle"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(float(i % 5 == 0)) for i in range(len(rollouts))]


def grpo(tokens_per_microbatch: int = 2048, **settings: Any) -> GRPO:
    knobs = {"prompts_per_step": 2, "samples_per_prompt": 5, "max_new_tokens": 5, "train_truncated": True}
    engine = Engine(POLICY, EngineSettings(tokens_per_microbatch=tokens_per_microbatch))
    s = GRPOSettings(**knobs | settings)
    experience = Experience(
        engine, PROMPTS, [[5, 9], [7]], Cycle(), s, prompts_at_once=s.prompts_per_step, seed=0
    )
    return GRPO(engine, experience, s)


def gradient(algorithm: GRPO) -> list[torch.Tensor]:
    """Of one step, over the engine's own micro-batches."""
    POLICY.net.zero_grad()
    (batch,), numbers = algorithm.batches(0)
    assert all(torch.isfinite(torch.tensor(v)) for v in numbers.values())
    for micro in algorithm.engine.microbatches(batch):
        terms = algorithm.objective(algorithm.engine.logprobs(micro, entropy=True), micro)
        reduce(terms, batch.counts()).backward()
    found = [p.grad.clone() for p in algorithm.engine.parameters.values() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in found)
    return found


@pytest.mark.parametrize("loss", get_args(LossName))
def test_every_loss_trains_and_ignores_the_microbatch_size(loss: LossName) -> None:
    whole = gradient(grpo(loss=loss, kl_coefficient=0.0))
    split = gradient(grpo(tokens_per_microbatch=16, loss=loss, kl_coefficient=0.0))
    assert sum(float(g.abs().sum()) for g in whole) > 0
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("advantage", get_args(AdvantageName))
def test_every_advantage_fills_a_step(advantage: AdvantageName) -> None:
    (batch,), numbers = grpo(advantage=advantage).batches(0)
    assert batch.streams["advantage"].isfinite().all()
    assert not batch.streams["advantage"][~batch.action].any()
    assert numbers["equal_groups"] == 0.0


def test_pass_k_is_passed_on() -> None:
    one = grpo(advantage="pass_at_k", pass_k=1).batches(0)[0][0].streams["advantage"]
    two = grpo(advantage="pass_at_k", pass_k=2).batches(0)[0][0].streams["advantage"]
    assert not torch.allclose(one, two)


def test_correcting_a_sampler_that_agrees_changes_no_gradient() -> None:
    plain = gradient(grpo(kl_coefficient=0.0))
    corrected = gradient(
        grpo(kl_coefficient=0.0, mismatch={"level": "sequence", "mode": "mask", "high": 3.0})
    )
    for a, b in zip(plain, corrected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    _, numbers = grpo(mismatch={"high": 2.0}).batches(0)
    assert numbers["mismatch_ess"] == pytest.approx(1.0, abs=1e-5)
    assert numbers["mismatch_touched"] == 0.0


def test_entropy_bonus_changes_the_gradient() -> None:
    without = gradient(grpo(kl_coefficient=0.0))
    bonus = gradient(grpo(kl_coefficient=0.0, entropy_coefficient=0.1))
    assert any(not torch.allclose(a, b) for a, b in zip(without, bonus, strict=True))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"loss": "sapo", "loss_options": {"clip_low": 0.2}}, "no option clip_low"),
        ({"kl_estimator": "k1"}, "zero expected gradient"),
        ({"loss": "vespo", "mismatch": {}}, "reaches back to the sampler"),
        ({"loss": "gvpo", "kl_placement": "reward"}, "would ignore"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        grpo(**settings)
