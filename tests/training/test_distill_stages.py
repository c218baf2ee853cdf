"""Distillation: the right divergence at the right tokens, the right teacher, and a student that comes closer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.reduction import reduce
from rewardlab.records.run import Run
from rewardlab.training.algorithms.distill import Distill, DistillSettings
from rewardlab.training.algorithms.on_policy_distill import OnPolicyDistill, OnPolicyDistillSettings
from rewardlab.training.experience import Experience
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings
from rewardlab.training.teacher import Teacher
from support import tiny_policy

ROWS = [Sequence((5, *range(n, 2 * n)), (False, False, *(True,) * (n - 1))) for n in (3, 9, 4, 7)]
STUDENT = EngineSettings(tokens_per_microbatch=16)


def given_answers(**knobs: object) -> Distill:
    student, teacher = Engine(tiny_policy(), STUDENT), Engine(tiny_policy(seed=1), STUDENT)
    return Distill(student, teacher, ROWS, ROWS, DistillSettings(rows_per_step=4, **knobs), seed=0)


def own_answers(**knobs: object) -> OnPolicyDistill:
    student, teacher = Engine(tiny_policy(), STUDENT), Engine(tiny_policy(seed=1), STUDENT)
    settings = OnPolicyDistillSettings(
        **{"prompts_per_step": 2, "samples_per_prompt": 8, "max_new_tokens": 6, **knobs}
    )
    prompts = [Prompt((Message("user", str(i)),)) for i in range(2)]
    experience = Experience(student, prompts, [[5, 9], [7, 8, 3]], None, settings, prompts_at_once=2, seed=0)
    return OnPolicyDistill(student, teacher, experience, settings)


def step_loss(algorithm: Distill | OnPolicyDistill, batch: Batch) -> float:
    """What the loop would compute, micro-batch by micro-batch."""
    whole = algorithm.needs == "logprobs+vocabulary"
    total = 0.0
    for micro in algorithm.engine.microbatches(batch):
        out = algorithm.engine.logprobs(micro, vocabulary=whole, entropy=not whole)
        total += reduce(algorithm.objective(out, micro), batch.counts()).item()
    return total


def distributions(engine: Engine, row: Sequence) -> torch.Tensor:
    """Log-probs at a row's actions, straight from the network."""
    with torch.no_grad():
        logits = engine.model.hf(torch.tensor([row.ids])).logits[0]
    at = torch.tensor([i - 1 for i, a in enumerate(row.action) if a])
    return (logits[at] / row.temperature).log_softmax(-1)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("top_k", [None, 10_000])
def test_the_divergence_is_that_of_the_two_networks(kind: str, top_k: int | None) -> None:
    algorithm = given_answers(divergence=kind, top_k=top_k, tail="renormalise")
    (batch,), _ = algorithm.batches(0)
    total, tokens = 0.0, 0
    for row in ROWS:
        s, t = distributions(algorithm.engine, row), distributions(algorithm.teacher.engine, row)
        m = (s.exp() / 2 + t.exp() / 2).log()
        forward = lambda p, q: float((p.exp() * (p - q)).sum())  # noqa: E731
        total += {
            "forward_kl": forward(t, s),
            "reverse_kl": forward(s, t),
            "jsd": 0.5 * forward(t, m) + 0.5 * forward(s, m),
        }[kind]
        tokens += row.actions
    assert step_loss(algorithm, batch) == pytest.approx(total / tokens, rel=1e-4)


def test_the_teachers_top_tokens_by_hand() -> None:
    teacher = Engine(tiny_policy(seed=1), STUDENT)
    batch = Teacher(teacher, Engine(tiny_policy())).top(Batch.pack(ROWS), 3)
    expected = torch.cat([distributions(teacher, row) for row in ROWS]).topk(3)
    torch.testing.assert_close(batch.action_streams["slice_logp"], expected.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.action_streams["slice_ids"], expected.indices)


def test_nll_beside_the_teacher() -> None:
    plain, mixed = given_answers(), given_answers(nll_weight=0.5)
    (batch,), _ = plain.batches(0)
    logp = plain.engine.frozen_logprobs(batch).logp
    nll = -float(logp.sum()) / batch.counts()["token"]
    assert step_loss(mixed, batch) - step_loss(plain, batch) == pytest.approx(0.5 * nll, rel=1e-4)


def test_a_student_equal_to_the_teacher_has_nothing_to_learn() -> None:
    engine = Engine(tiny_policy())
    algorithm = Distill(engine, Engine(tiny_policy()), ROWS, [], DistillSettings(rows_per_step=4), seed=0)
    (batch,), _ = algorithm.batches(0)
    assert abs(step_loss(algorithm, batch)) < 1e-6


def test_a_teacher_with_another_tokenizer_is_refused() -> None:
    other = tiny_policy(seed=1)
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match="another tokenizer"):
        Teacher(Engine(other), Engine(tiny_policy()))
    templated = tiny_policy(seed=1)
    templated.tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(UserError, match="chat template"):
        Teacher(Engine(templated), Engine(tiny_policy()))


def test_the_teachers_opinion_is_the_advantage() -> None:
    algorithm = own_answers(method="policy_gradient", temperature=0.8)
    (batch,), numbers = algorithm.batches(0)
    gap = algorithm.teacher.logprobs(batch) - batch.streams["logp_sample"]
    torch.testing.assert_close(batch.streams["advantage"], gap * batch.action)
    assert numbers["teacher_gap"] == pytest.approx(-float(gap[batch.action].mean()), rel=1e-5)
    total = own_answers(method="policy_gradient", temperature=0.8, discount=1.0).batches(0)[0][0]
    first = total.offsets[:-1] + torch.tensor(
        [int(a.nonzero()[0]) for a in total.action.split(total.lengths.tolist())]
    )
    sums = torch.stack([g.sum() for g in (gap * batch.action).split(batch.lengths.tolist())])
    torch.testing.assert_close(total.streams["advantage"][first], sums)


@pytest.mark.parametrize(
    "knobs",
    [
        {"method": "divergence"},
        {"method": "divergence", "divergence": "jsd", "top_k": 20},
        {"method": "policy_gradient"},
    ],
)
def test_the_student_comes_closer_on_its_own_answers(knobs: dict[str, object], tmp_path: Path) -> None:
    def distance(algorithm: OnPolicyDistill) -> float:
        judge = own_answers(samples_per_prompt=24)
        judge.engine = judge.experience.sampler.engine = algorithm.engine
        (batch,), _ = judge.batches(0)
        return step_loss(judge, batch)

    algorithm = own_answers(samples_per_prompt=12, **knobs)
    before = distance(algorithm)
    loop = LoopSettings(steps=10, optimiser=OptimiserSettings(learning_rate=1e-2, schedule="constant"))
    train(algorithm, loop, Run.open(tmp_path / "r", "name: t\n", seed=0).stage("s"))
    assert distance(algorithm) < 0.9 * before


@pytest.mark.parametrize(
    "knobs",
    [
        {"discount": 0.5},
        {"method": "policy_gradient", "top_k": 4},
        {"top_k": 4, "tail": "truncate"},
        {"aggregation": "constant"},
    ],
)
def test_knobs_that_would_do_nothing_are_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"discount|top_k|infinite|constant"):
        OnPolicyDistillSettings(**knobs)
