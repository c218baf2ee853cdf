"""The gradient of a step does not depend on how the step is computed: every algorithm, every way.

All algorithms fill their batch from the same answers and are moved off the policy that gave them, so that
ratios, clips and KLs act. A `blind` network sees only the last token, so that an observation which repeats
it changes no log-prob: what the gradient then shows is the bookkeeping alone.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from rewardlab.core.batch import Batch, given
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.models.critic import ActorCritic, value_head
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import Model
from rewardlab.objectives.policy_gradient import LossName
from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.objectives.reduction import reduce
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.algorithms.distill import Distill, DistillSettings
from rewardlab.training.algorithms.dpo import DPO
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.algorithms.on_policy_distill import OnPolicyDistill, OnPolicyDistillSettings
from rewardlab.training.algorithms.online_dpo import OnlineDPO, OnlineDPOSettings
from rewardlab.training.algorithms.ppo import PPO
from rewardlab.training.algorithms.ppo_settings import PPOSettings
from rewardlab.training.algorithms.rejection_sampling import RejectionSampling, RejectionSettings
from rewardlab.training.algorithms.reward import RewardModelling
from rewardlab.training.algorithms.sft import SFT
from rewardlab.training.experience import Experience, ExperienceSettings
from rewardlab.training.pairs import PairRow
from support import tiny_policy, tiny_reward_model

GROUPS, SAMPLES = 4, 4
PROMPTS = [Prompt((Message("user", str(i)),), id=str(i)) for i in range(GROUPS)]
IDS = [[5, 9, 11], [7, 8], [40, 41, 42, 43], [12]]
POLICY, TEACHER, SCORER = tiny_policy(), tiny_policy(seed=1), tiny_reward_model(seed=2)


def blinded(model: Model) -> Model:
    """A copy whose attention adds nothing."""
    net = copy.deepcopy(model.net)
    for name, p in net.named_parameters():
        if name.endswith("o_proj.weight"):
            p.data.zero_()
    return Model(net, model.tokenizer, model.source)


MODELS = {False: (POLICY, TEACHER, SCORER), True: tuple(map(blinded, (POLICY, TEACHER, SCORER)))}


def answers(policy: Model) -> list[Rollout]:
    """Answers of unequal length, one in six cut by the token limit, with the policy's own log-probs."""
    draw = random.Random(0)
    rows = []
    for g, prompt in enumerate(IDS):
        for i in range(SAMPLES):
            ids = (*prompt, *(draw.randrange(3, 300) for _ in range(draw.randint(2, 7))))
            action = tuple(k >= len(prompt) for k in range(len(ids)))
            stop = "length" if (g * SAMPLES + i) % 6 == 5 else "stop"
            rows.append((g, Sequence(ids, action, logp=(0.0,) * len(ids), temperature=0.9, stop=stop)))
    logp = given(Engine(policy).frozen_logprobs(Batch.pack([s for _, s in rows])).logp)
    found, start = [], 0
    for g, s in rows:
        own = tuple(logp[start : start + len(s)].tolist())
        start += len(s)
        score = Score(draw.gauss(0, 1))
        found.append(Rollout(PROMPTS[g], replace(s, logp=own), "", group=g, score=score))
    return found


ROLLOUTS = {blind: answers(models[0]) for blind, models in MODELS.items()}


class Given(Experience):
    """Hands out the answers it was given."""

    def __init__(self, engine: Engine, settings: ExperienceSettings, rollouts: list[Rollout]) -> None:
        super().__init__(engine, PROMPTS, IDS, None, settings, prompts_at_once=GROUPS, seed=0)
        self.rollouts = rollouts

    def collect(self, number: int, *, version: int | None = None) -> list[Rollout]:
        return self.rollouts


Case = Callable[[Engine, Engine, Engine, list[Rollout]], tuple[Algorithm, Callable[[], Batch]]]
"""(policy, teacher, scorer, answers) -> the algorithm, and what fills the step's batch."""


def first(algorithm: Algorithm) -> tuple[Algorithm, Callable[[], Batch]]:
    return algorithm, lambda: algorithm.batches(0)[0][0]


def in_order(algorithm: Any) -> tuple[Algorithm, Callable[[], Batch]]:
    """Rows as they are given and not in the sampler's order."""
    algorithm.sampler.indices = lambda _: list(range(len(algorithm.rows)))
    return first(algorithm)


def pairs(rollouts: list[Rollout]) -> list[PairRow]:
    return [
        PairRow(a.sequence, b.sequence, label=0.9, weight=1.5)
        for a, b in zip(rollouts[::2], rollouts[1::2], strict=True)
    ]


def sft(policy: Engine, _: Engine, __: Engine, rollouts: list[Rollout]) -> Any:
    rows = [r.sequence for r in rollouts]
    return in_order(SFT(policy, rows, [], rows_per_step=len(rows), seed=0))


def reward(_: Engine, __: Engine, scorer: Engine, rollouts: list[Rollout]) -> Any:
    rows = pairs(rollouts)
    return in_order(RewardModelling(scorer, rows, [], pairs_per_step=len(rows), centring=0.1, seed=0))


def dpo(loss: str) -> Case:
    def make(policy: Engine, _: Engine, __: Engine, rollouts: list[Rollout]) -> Any:
        rows = pairs(rollouts)
        settings = PreferenceSettings(loss={loss: 1.0})
        return in_order(DPO(policy, rows, [], pairs_per_step=len(rows), settings=settings, seed=0))

    return make


def grpo(**knobs: Any) -> Case:
    def make(policy: Engine, _: Engine, __: Engine, rollouts: list[Rollout]) -> Any:
        s = GRPOSettings(
            **{
                "prompts_per_step": GROUPS,
                "samples_per_prompt": SAMPLES,
                "entropy_coefficient": 0.05,
                **knobs,
            }
        )
        return first(GRPO(policy, Given(policy, s, rollouts), s))

    return make


def ppo(kind: str, **knobs: Any) -> Case:
    def make(policy: Engine, _: Engine, scorer: Engine, rollouts: list[Rollout]) -> Any:
        head = value_head(policy.model)
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
        engine = ActorCritic(policy, scorer if kind == "separate" else head)
        s = PPOSettings(critic=kind, lam=0.9, gamma=0.95, entropy_coefficient=0.05, **knobs)
        algorithm = PPO(engine, PROMPTS, IDS, None, s, seed=0)
        return algorithm, lambda: algorithm.fill(rollouts)[0]

    return make


def online_dpo(policy: Engine, _: Engine, __: Engine, rollouts: list[Rollout]) -> Any:
    s = OnlineDPOSettings(samples_per_prompt=SAMPLES)
    return first(OnlineDPO(policy, Given(policy, s, rollouts), s))


def rejection(policy: Engine, _: Engine, __: Engine, rollouts: list[Rollout]) -> Any:
    s = RejectionSettings(keep="top_fraction", top_fraction=0.6, aggregation="sequence")
    return first(RejectionSampling(policy, Given(policy, s, rollouts), s))


def distill(**knobs: Any) -> Case:
    def make(policy: Engine, teacher: Engine, _: Engine, rollouts: list[Rollout]) -> Any:
        rows = [r.sequence for r in rollouts]
        s = DistillSettings(rows_per_step=len(rows), nll_weight=0.3, **knobs)
        return in_order(Distill(policy, teacher, rows, [], s, seed=0))

    return make


def on_policy_distill(**knobs: Any) -> Case:
    def make(policy: Engine, teacher: Engine, _: Engine, rollouts: list[Rollout]) -> Any:
        s = OnPolicyDistillSettings(**knobs)
        return first(OnPolicyDistill(policy, teacher, Given(policy, s, rollouts), s))

    return make


CASES: dict[str, Case] = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo("sigmoid"),
    "dpo ipo": dpo("ipo"),
    **{f"grpo {loss}": grpo(loss=loss) for loss in get_args(LossName) if loss != "dr_grpo"},
    "grpo dr_grpo": grpo(loss="dr_grpo", max_new_tokens=7),
    "grpo kl in the reward": grpo(
        kl_placement="reward", kl_estimator="k1", kl_coefficient=0.5, advantage="reinforce_pp"
    ),
    "ppo separate": ppo("separate"),
    "ppo shared": ppo("shared", kl_placement="loss", kl_estimator="k3"),
    "online_dpo": online_dpo,
    "rejection_sampling": rejection,
    "distill": distill(),
    "distill top_k": distill(divergence="reverse_kl", top_k=5),
    "on_policy_distill": on_policy_distill(top_k=5),
    "on_policy_distill policy_gradient": on_policy_distill(method="policy_gradient", discount=0.7),
}
every = pytest.mark.parametrize("name", list(CASES))
Gradient = dict[str, Tensor]


def gradient(
    name: str,
    rollouts: list[Rollout] | None = None,
    *,
    blind: bool = False,
    layout: str = "padded",
    budget: int = 4096,
    ranks: int = 1,
    own_counts: bool = False,
) -> Gradient:
    """The gradient of one step, as the loop accumulates it; over ranks it is summed."""
    settings = EngineSettings(layout=layout, tokens_per_microbatch=budget)
    engines = [Engine(Model(copy.deepcopy(m.net), m.tokenizer, m.source), settings) for m in MODELS[blind]]
    algorithm, fill = CASES[name](*engines, ROLLOUTS[blind] if rollouts is None else rollouts)
    parameters = algorithm.engine.parameters
    with torch.no_grad():
        for p in parameters.values():
            p.mul_(1.03)
    batch = fill()
    for rank in shares(batch, ranks):
        counts = (rank if own_counts else batch).counts()
        for micro in algorithm.engine.microbatches(rank):
            loss = reduce(algorithm.objective(algorithm.compute(micro), micro), counts)
            if loss.requires_grad:
                loss.backward()
    return {k: p.grad for k, p in parameters.items() if p.grad is not None}


def shares(batch: Batch, ranks: int) -> list[Batch]:
    """The batch over this many ranks, dealt out by what must stay together: pairs or groups."""
    unit = list(range(batch.size))
    if batch.group.numel():
        unit = batch.group.tolist()
    elif batch.pairs.numel():
        owner = {i: p for p, pair in enumerate(batch.pairs.tolist()) for i in pair}
        unit = [owner[i] for i in unit]
    rank_of = {u: k % ranks for k, u in enumerate(dict.fromkeys(unit))}
    parts = [[i for i in range(batch.size) if rank_of[unit[i]] == r] for r in range(ranks)]
    return [batch.select(p) for p in parts if p]


def assert_same(a: Gradient, b: Gradient) -> None:
    assert a.keys() == b.keys()
    largest = max(float(x.abs().max()) for x in a.values())
    assert largest > 1e-6
    for k, x in a.items():
        torch.testing.assert_close(b[k], x, rtol=1e-3, atol=2e-5 * largest, msg=lambda m, k=k: f"{k}: {m}")


@pytest.fixture(scope="module")
def plain() -> dict[str, Gradient]:
    return {name: gradient(name) for name in CASES}


@every
def test_micro_batches(name: str, plain: dict[str, Gradient]) -> None:
    assert_same(plain[name], gradient(name, budget=13))


@every
@pytest.mark.parametrize("layout", ["packed", "tree"])
def test_layouts(name: str, layout: str, plain: dict[str, Gradient]) -> None:
    assert_same(plain[name], gradient(name, layout=layout, budget=60))


@every
def test_the_order_of_groups(name: str, plain: dict[str, Gradient]) -> None:
    turned = [r for g in (2, 0, 3, 1) for r in ROLLOUTS[False] if r.group == g]
    if name == "grpo clip_cov":
        pytest.skip("which tokens it draws follows the order by design")
    assert_same(plain[name], gradient(name, turned))


@every
@pytest.mark.parametrize("ranks", [2, 3])
def test_data_parallel_width(name: str, ranks: int, plain: dict[str, Gradient]) -> None:
    assert_same(plain[name], gradient(name, ranks=ranks))


def with_observations(rollout: Rollout) -> Rollout:
    """The same answer with tool output in it, after its first action and at its end."""
    s = rollout.sequence
    start = s.action.index(True)
    at = sorted([*range(start + 1), start, start, *range(start + 1, len(s)), len(s) - 1])
    fresh = [k == 0 or at[k] != at[k - 1] for k in range(len(at))]
    return replace(
        rollout,
        sequence=replace(
            s,
            ids=tuple(s.ids[i] for i in at),
            action=tuple(s.action[i] and new for i, new in zip(at, fresh, strict=True)),
            logp=tuple(s.logp[i] if new else 0.0 for i, new in zip(at, fresh, strict=True)),
        ),
    )


@every
def test_observations_inside_an_answer(name: str) -> None:
    rollouts = [with_observations(r) for r in ROLLOUTS[True]]
    assert all(len(a.sequence) == len(b.sequence) + 3 for a, b in zip(rollouts, ROLLOUTS[True], strict=True))
    found = [gradient(name, r, blind=True) for r in (ROLLOUTS[True], rollouts)]
    # what attention would have to learn does depend on what there is to attend to
    kept = [{k: g for k, g in x.items() if "self_attn" not in k} for x in found]
    assert_same(*kept)


def test_a_ranks_own_counts_would_be_wrong(plain: dict[str, Gradient]) -> None:
    wrong = gradient("sft", ranks=3, own_counts=True)
    with pytest.raises(AssertionError):
        assert_same(plain["sft"], {k: g / 3 for k, g in wrong.items()})
