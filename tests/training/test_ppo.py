"""PPO: advantages by hand, a critic that reads the state before each action, updates that resume bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.models.critic import ActorCritic, value_head
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.records.run import Run, StageRecord
from rewardlab.training.algorithms.ppo import PPO
from rewardlab.training.algorithms.ppo_settings import PPOSettings
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.normaliser import Normaliser
from rewardlab.training.optimiser import OptimiserSettings
from support import tiny_policy, tiny_reward_model

Kind = Literal["separate", "shared"]
PROMPTS = [Prompt((Message("user", f"Question {i}"),), id=str(i)) for i in range(4)]
IDS = [[5, 9, 11], [7, 8], [40, 41, 42, 43], [12]]
KINDS: list[Kind] = ["separate", "shared"]


class CountE:
    """1 for each letter e, but an error for an answer that is marked as broken."""

    name = "count_e"

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken = broken

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [
            Score.error("died") if i in self.broken else Score(float(1 + r.text.count("e")))
            for i, r in enumerate(rollouts)
        ]


class Two:
    """Every answer is worth 2."""

    name = "two"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(2.0)] * len(rollouts)


def actor_critic(kind: Kind, budget: int = 2048) -> ActorCritic:
    settings = EngineSettings(tokens_per_microbatch=budget)
    policy = Engine(tiny_policy("qwen3"), settings)
    if kind == "separate":
        return ActorCritic(policy, Engine(tiny_reward_model("qwen3", seed=1), settings))
    return ActorCritic(policy, value_head(policy.model))


def ppo(kind: Kind = "shared", broken: tuple[int, ...] = (), **knobs: object) -> PPO:
    common = {"prompts_per_step": 4, "max_new_tokens": 5, "train_truncated": True, "critic": kind}
    settings = PPOSettings(**{**common, **knobs})
    return PPO(actor_critic(kind), PROMPTS, IDS, CountE(broken), settings, seed=0)


def test_advantages_by_hand_with_a_critic_of_zero() -> None:
    """The head starts at zero, so the advantage is the score, lam = 1/2 less for each action to the end."""
    algorithm = ppo(lam=0.5, whiten=False, kl_coefficient=0.0, epochs=1)
    (batch,), numbers = algorithm.batches(0)
    assert (batch.streams["value"] == 0).all()
    expected = torch.zeros(batch.ids.numel())
    for i in range(batch.size):
        actions = [
            t for t in range(int(batch.offsets[i]), int(batch.offsets[i + 1])) if bool(batch.action[t])
        ]
        for k, t in enumerate(reversed(actions)):
            expected[t] = float(batch.reward[i]) * 0.5**k
    torch.testing.assert_close(batch.streams["advantage"], expected)
    torch.testing.assert_close(batch.streams["return"], expected)
    assert numbers["reward"] == pytest.approx(float(batch.reward.mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_of_the_state_before_its_action(kind: Kind) -> None:
    """V at action t is what the head says of the sequence cut before t: it cannot have seen the action."""
    engine = actor_critic(kind)
    if isinstance(engine.critic, torch.nn.Linear):
        torch.nn.init.normal_(engine.critic.weight)
    row = Tokens((5, 9, 11, 40, 41, 7), (False, False, True, True, False, True))
    values = engine.frozen_values(Batch.pack([row]))
    for t, action in enumerate(row.action):
        if not action:
            assert values[t] == 0
            continue
        prefix = Batch.pack([Tokens(row.ids[:t], (False,) * t)])
        with engine.frozen():
            if isinstance(engine.critic, Engine):
                expected = engine.critic.frozen_scores(prefix)[0]
            else:
                expected = engine.critic(engine.hidden(prefix)[-1])[0]
        torch.testing.assert_close(values[t], expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        together = engine.logprobs_and_values(Batch.pack([row]))
    torch.testing.assert_close(together.values, values, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.logp, engine.frozen_logprobs(Batch.pack([row])).logp)


@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=5), budget=st.integers(1, 60))
def test_a_value_does_not_depend_on_its_neighbours(lengths: list[int], budget: int) -> None:
    rows = [Tokens(tuple(range(3, 3 + n)), (False, *(True,) * (n - 1))) for n in lengths]
    together = actor_critic("separate", budget).frozen_values(Batch.pack(rows))
    engine = actor_critic("separate")
    alone = torch.cat([engine.frozen_values(Batch.pack([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_unscored_answers_train_neither_policy_nor_critic() -> None:
    algorithm = ppo("separate", broken=(0, 1, 2, 3), entropy_coefficient=0.1, kl_coefficient=0.0)
    batches, numbers = algorithm.batches(0)
    assert numbers["unscored"] == 4
    terms = algorithm.objective(algorithm.compute(batches[0]), batches[0])
    sum(t.coefficient * t.total for t in terms.values() if t.coefficient).backward()
    assert all(p.grad is None or not p.grad.any() for p in algorithm.engine.parameters.values())


def test_every_pass_sees_every_answer_once_in_another_order() -> None:
    batches, _ = ppo(epochs=3, minibatches=2, samples_per_prompt=2).batches(0)
    assert [b.size for b in batches] == [4] * 6
    passes = [sorted(a.group.tolist() + b.group.tolist()) for a, b in zip(batches[::2], batches[1::2])]
    assert passes == [[0, 0, 1, 1, 2, 2, 3, 3]] * 3
    assert len({tuple(b.ids.tolist()) for b in batches[::2]}) > 1


def test_whitened_advantages_have_mean_zero_and_deviation_one_over_trained_tokens() -> None:
    (batch,), _ = ppo(broken=(1,), epochs=1).batches(0)
    some = batch.streams["advantage"][batch.trained]
    assert float(some.mean()) == pytest.approx(0, abs=1e-5)
    assert float(some.std()) == pytest.approx(1, abs=1e-4)
    assert len(set(batch.seq[batch.trained].tolist())) == 3


def test_the_controller_moves_the_coefficient_towards_its_target() -> None:
    """At the start the policy is its reference: KL 0 is below any target, so by Ziegler's rule the
    coefficient falls by 20 % times samples / horizon."""
    algorithm = ppo(kl_control="adaptive", kl_target=5.0, kl_horizon=40.0, kl_coefficient=0.1)
    _, numbers = algorithm.batches(0)
    assert numbers["kl"] == pytest.approx(0, abs=1e-4)
    assert numbers["kl_coefficient"] == algorithm.control.kl == pytest.approx(0.1 * (1 - 0.2 * 4 / 40))


def test_the_budgeted_controller_charges_only_above_its_budget() -> None:
    algorithm = ppo(kl_control="budgeted", kl_target=1.0, kl_rate=0.1, kl_coefficient=0.05)
    assert algorithm.batches(0)[1]["kl_coefficient"] == 0  # at KL 0 the price falls by a tenth of a nat
    with torch.no_grad():
        for p in algorithm.engine.model.net.parameters():
            p.mul_(1.3)
    numbers = algorithm.batches(1)[1]
    assert numbers["kl"] > 1
    assert numbers["kl_coefficient"] == pytest.approx(0.1 * (numbers["kl"] - 1), rel=1e-4)


def test_the_entropy_bonus_grows_while_entropy_is_below_its_target() -> None:
    algorithm = ppo(entropy_target=9.0, entropy_rate=0.01)
    assert algorithm.batches(0)[1]["entropy_coefficient"] == pytest.approx(0.01)
    assert algorithm.batches(1)[1]["entropy_coefficient"] == pytest.approx(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_answer_earns_what_the_critic_expects_beyond_it(kind: Kind) -> None:
    """With lam 1 and gamma 1 the return of every token is the answer's score, or where the answer was cut the
    critic's value of it as it stands, which is what the critic says at one more action."""
    algorithm = ppo(
        kind, bootstrap_truncated=True, kl_coefficient=0.0, whiten=False, epochs=1, samples_per_prompt=30
    )
    engine = algorithm.engine
    if isinstance(engine.critic, torch.nn.Linear):
        torch.nn.init.normal_(engine.critic.weight)
    (batch,), numbers = algorithm.batches(0)
    assert 0 < numbers["stop_rate"] < 1
    eos = engine.model.tokenizer.eos_token_id
    for i in range(batch.size):
        ids = batch.ids[batch.offsets[i] : batch.offsets[i + 1]].tolist()
        own = batch.select([i])
        if ids[-1] == eos:
            expected = batch.reward[i]
        else:
            longer = Tokens((*ids, 3), (*(False for _ in ids), True))
            expected = engine.frozen_values(Batch.pack([longer]))[-1]
        returns = own.streams["return"][own.action]
        torch.testing.assert_close(returns, expected.expand_as(returns), atol=1e-4, rtol=1e-4)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), min_size=1, max_size=5), st.integers(0, 5))
def test_the_normaliser_is_that_of_all_values_together(looks: list[list[float]], cut: int) -> None:
    normaliser = Normaliser()
    for values in looks[:cut]:
        normaliser.look(torch.tensor(values))
    resumed = Normaliser()
    resumed.load_state(normaliser.state())
    for values in looks[cut:]:
        resumed.look(torch.tensor(values))
    every = torch.tensor([x for values in looks for x in values]).double()
    mean, std = (float(every.mean()), float(every.std(correction=0))) if len(every) else (0.0, 0.0)
    assert resumed.mean == pytest.approx(mean, abs=1e-6)
    if std > 1e-3:
        assert resumed.std == pytest.approx(std, rel=1e-6)
    elif std == 0:
        assert (resumed.normal(every) == 0).all()
    torch.testing.assert_close(resumed.original(resumed.normal(every)), every)


def test_normalised_rewards_have_deviation_one_over_the_run() -> None:
    algorithm = ppo(normalise="reward", kl_coefficient=0.0, whiten=False, epochs=1, samples_per_prompt=4)
    seen = []
    for step in range(2):
        (batch,), numbers = algorithm.batches(step)
        seen += batch.reward.tolist()
        mean, std = torch.tensor(seen).mean(), torch.tensor(seen).std(correction=0)
        assert numbers["normaliser_std"] == pytest.approx(float(std), rel=1e-5)
        last = batch.streams["return"][batch.offsets[1:] - 1]
        torch.testing.assert_close(last, (batch.reward - mean) / std)


def test_normalised_returns_leave_the_first_advantages_as_they_are() -> None:
    """The critic is asked in its own units, GAE runs in the reward's; targets have mean 0 and deviation 1."""
    plain, scaled = (
        ppo("separate", normalise=n, whiten=False, epochs=1).batches(0)[0][0] for n in ("none", "return")
    )
    torch.testing.assert_close(plain.streams["advantage"], scaled.streams["advantage"])
    target = scaled.streams["return"][scaled.trained]
    assert float(target.mean()) == pytest.approx(0, abs=1e-5)
    assert float(target.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_a_critic_of_normalised_returns_learns_rewards_far_from_one(tmp_path: Path) -> None:
    """Scores of hundreds: in their own units the same updates leave nearly all of the error."""

    class Hundreds(CountE):
        def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
            return [Score(500.0 + 100.0 * r.text.count("e")) for r in rollouts]

    def unexplained(normalise: str) -> float:
        algorithm = ppo(
            "separate", normalise=normalise, critic_learning_rate=3e-3, value_clip=None, kl_coefficient=0.0
        )
        algorithm.reward = Hundreds()
        loop = LoopSettings(steps=8, optimiser=OptimiserSettings(learning_rate=0.0, schedule="constant"))
        train(algorithm, loop, record(tmp_path / normalise))
        guess = algorithm.engine.frozen_values(batch := algorithm.batches(8)[0][0])
        if normalise == "return":
            guess = algorithm.normaliser.original(guess)
        error = guess - batch.reward[batch.seq]
        return float(error[batch.action].square().mean().sqrt())

    assert unexplained("return") < 0.5 * unexplained("none")


def test_kl_in_the_reward_stands_on_the_token_that_strayed() -> None:
    algorithm = ppo(kl_coefficient=0.5, whiten=False, lam=0.0, epochs=1)
    with torch.no_grad():
        for p in algorithm.engine.model.net.parameters():
            p.mul_(1.05)
    (batch,), _ = algorithm.batches(0)
    last = torch.zeros_like(batch.action)
    last[batch.offsets[1:] - 1] = True
    strayed = batch.streams["logp_sample"] - batch.streams["logp_ref"]
    inner = batch.action & ~last  # with lam 0 and values 0 the advantage is the token's own reward
    assert float(strayed[inner].abs().max()) > 0.01
    torch.testing.assert_close(batch.streams["advantage"][inner], -0.5 * strayed[inner])
    assert "kl_loss" not in algorithm.objective(algorithm.compute(batch), batch)


@pytest.mark.parametrize("rate", [0.0, 1e-2])
def test_the_critic_has_its_own_learning_rate(rate: float, tmp_path: Path) -> None:
    algorithm = ppo("separate", critic_learning_rate=rate, epochs=1)
    before = {k: p.detach().clone() for k, p in algorithm.engine.parameters.items()}
    loop = LoopSettings(steps=1, optimiser=OptimiserSettings(learning_rate=1e-4, schedule="constant"))
    train(algorithm, loop, record(tmp_path))
    moved = {k: float((p.detach() - before[k]).abs().max()) for k, p in algorithm.engine.parameters.items()}
    policy = max(v for k, v in moved.items() if not k.startswith("critic."))
    critic = max(v for k, v in moved.items() if k.startswith("critic."))
    assert policy == pytest.approx(1e-4, rel=0.05)  # AdamW's first step is as long as the rate
    assert critic == pytest.approx(rate, rel=0.05)


def record(folder: Path) -> StageRecord:
    return Run.open(folder / "run", "name: t\n", seed=0).stage("ppo")


class KilledError(Exception):
    """Stands in for kill -9."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_in_the_same_bits(kind: Kind, tmp_path: Path) -> None:
    loop = LoopSettings(steps=5, checkpoint_every=2, optimiser=OptimiserSettings(learning_rate=3e-3))
    knobs = {
        "epochs": 2,
        "minibatches": 2,
        "kl_control": "adaptive",
        "kl_target": 0.5,
        "entropy_target": 9.0,
        "normalise": "return",
        "bootstrap_truncated": True,
        "kl_horizon": 20.0,
        "critic_learning_rate": 1e-2,
    }

    def die(step: int, _: Mapping[str, float]) -> None:
        if step == 3:
            raise KilledError

    whole, cut = ppo(kind, **knobs), ppo(kind, **knobs)
    train(whole, loop, record(tmp_path / "whole"))
    with pytest.raises(KilledError):
        train(cut, loop, record(tmp_path / "cut"), callbacks=(die,))
    resumed = ppo(kind, **knobs)
    train(resumed, loop, record(tmp_path / "cut"))
    assert resumed.control.state() == whole.control.state()
    assert whole.control.kl != 0.05
    assert whole.control.entropy > 0
    assert resumed.normaliser.state() == whole.normaliser.state()
    assert any(k.startswith("critic.") for k in whole.engine.parameters)
    for name, p in whole.engine.parameters.items():
        assert torch.equal(p, resumed.engine.parameters[name]), name
    rows = [record(tmp_path / side).read_metrics() for side in ("whole", "cut")]
    for row in [*rows[0], *rows[1]]:
        row.pop("seconds")
    assert rows[0] == rows[1]
    assert len(rows[0]) == 5


def test_the_critic_learns_the_reward(tmp_path: Path) -> None:
    """Trained alone (the policy's rate is 0) on answers that are all worth 2, it comes to say 2."""
    algorithm = ppo("separate", critic_learning_rate=3e-3, value_clip=None, kl_coefficient=0.0, lam=1.0)
    algorithm.reward = Two()
    loop = LoopSettings(steps=12, optimiser=OptimiserSettings(learning_rate=0.0, schedule="constant"))
    train(algorithm, loop, record(tmp_path))
    errors = [row["value_error"] for row in record(tmp_path).read_metrics()]
    assert errors[-1] < 0.1 * errors[0]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="zero expected gradient"):
        PPOSettings(kl_placement="loss", kl_estimator="k1")
    with pytest.raises(ValidationError, match="cannot start at 0"):
        PPOSettings(kl_coefficient=0.0, kl_control="adaptive", kl_target=1.0)
    with pytest.raises(ValidationError, match="needs train_truncated"):
        PPOSettings(bootstrap_truncated=True)
    policy, other = Engine(tiny_policy("qwen3")), tiny_reward_model("qwen3")
    other.tokenizer.add_tokens(["extra"])
    with pytest.raises(UserError, match="another tokenizer"):
        ActorCritic(policy, Engine(other))
