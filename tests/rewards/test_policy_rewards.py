"""Rewards read off language models: yes/no log-odds, implicit rewards, certainty, matrix entropy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Prompt, Rollout, Score, Sequence
from rewardlab.data.rendering import render_example, render_prompt
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.preference.losses import sigmoid as dpo
from rewardlab.rewards.certainty import Certainty, CertaintySettings
from rewardlab.rewards.generative import GenerativeReward, GenerativeSettings
from rewardlab.rewards.implicit import ImplicitReward, ImplicitSettings
from rewardlab.rewards.matrix_entropy import MatrixEntropy, MatrixEntropySettings, matrix_entropy
from rewardlab.rewards.reading import Reader
from support import tiny_policy

POLICY, REFERENCE = tiny_policy(seed=1), tiny_policy(seed=2)
QUESTION = (Message("user", "How do I bake bread?"),)
TEXTS = ["The time you need is ten minutes.", "About two dollars. I am not sure.", "time"]


def answer(text: str, group: int = 0) -> Rollout:
    return Rollout(Prompt(QUESTION, place="a.jsonl:1"), Sequence((0,), (False,)), text, group)


def rendered(text: str) -> Sequence:
    row = Example((*QUESTION, Message("assistant", text)))
    return render_example(POLICY.tokenizer, row).sequence


class Policies:
    """Finds models and rewards by name."""

    def policy(self, name: str) -> Engine:
        return Engine({"base": REFERENCE, "dpo": POLICY}[name])

    def reward(self, name: str) -> OnlyWithTime:
        return OnlyWithTime()


class OnlyWithTime:
    name = "has_time"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score.abstain("silent") if not r.text else Score(float("time" in r.text)) for r in rollouts]


REWARDS = {
    "generative": lambda e: GenerativeReward("r", e),
    "implicit": lambda e: ImplicitReward("r", e, Engine(REFERENCE)),
    "certainty": lambda e: Certainty("r", e),
    "entropy": lambda e: Certainty("r", e, "negative_entropy"),
    "matrix": lambda e: MatrixEntropy("r", e),
}


@settings(deadline=None, max_examples=8)
@given(
    texts=st.lists(st.text(max_size=20).filter(lambda t: "<|" not in t), min_size=1, max_size=4),
    kind=st.sampled_from(sorted(REWARDS)),
    budget=st.integers(1, 200),
    layout=st.sampled_from(["padded", "packed"]),
)
def test_a_score_depends_on_its_own_text_alone(texts: list[str], kind: str, budget: int, layout: str) -> None:
    engine = Engine(POLICY, EngineSettings(tokens_per_microbatch=budget, layout=layout))
    together = REWARDS[kind](engine).score([answer(t) for t in texts])
    for text, score in zip(texts, together, strict=True):
        alone = REWARDS[kind](Engine(POLICY)).score([answer(text)])[0]
        assert alone.status == score.status
        assert score.value is None or score.value == pytest.approx(alone.value, abs=1e-4)


@pytest.mark.parametrize("kind", sorted(REWARDS))
def test_one_unreadable_text_does_not_spoil_the_others(kind: str) -> None:
    rows = [answer(TEXTS[0]), answer("a <|im_end|> inside"), answer(TEXTS[1])]
    scores = REWARDS[kind](Engine(POLICY)).score(rows)
    assert [s.status for s in scores] == ["ok", "error", "ok"]
    assert REWARDS[kind](Engine(POLICY)).score([]) == []


@pytest.mark.parametrize("kind", sorted(REWARDS))
def test_a_broken_model_gives_errors_and_not_zeros(kind: str) -> None:
    broken = tiny_policy()
    with torch.no_grad():
        for parameter in broken.net.parameters():
            parameter.fill_(float("nan"))
    assert REWARDS[kind](Engine(broken)).score([answer(TEXTS[0])])[0].status == "error"


def test_yes_and_no_by_hand() -> None:
    reward = GenerativeReward("r", Engine(POLICY), question="{prompt} {answer} Good?", yes="time", no="cost")
    score = reward.score([answer(TEXTS[0])])[0]
    asked = Prompt((Message("user", f"{QUESTION[0].content} {TEXTS[0]} Good?"),))
    ids = torch.tensor([render_prompt(POLICY.tokenizer, asked)])
    with torch.no_grad():
        logits = POLICY.hf(ids).logits[0, -1]
    yes, no = (POLICY.tokenizer(w)["input_ids"][0] for w in ("time", "cost"))
    assert score.value == pytest.approx(float(logits[yes] - logits[no]), abs=1e-5)
    p = logits.softmax(-1)
    assert score.parts["asked"] == pytest.approx(float(p[yes] + p[no]), abs=1e-6)
    assert score.parts["yes"] == pytest.approx(float(p[yes] / (p[yes] + p[no])), abs=1e-6)
    turned = GenerativeReward("r", Engine(POLICY), question="{prompt} {answer} Good?", yes="cost", no="time")
    assert turned.score([answer(TEXTS[0])])[0].value == pytest.approx(-(score.value or 0), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"yes": " yes", "no": " yes"}, "same token"),
        ({"yes": ""}, "no token"),
        ({"question": "Is it {good}?"}, "fields"),
        ({"question": "Is it good?"}, "fields"),
    ],
)
def test_questions_that_cannot_work_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GenerativeReward("r", Engine(POLICY), **options)


def test_implicit_rewards_are_the_logit_of_dpo() -> None:
    """The loss that the trainer computes from log-probs is -log sigmoid of the difference of two values."""
    beta = 0.3
    values = [
        s.value
        for s in ImplicitReward("r", Engine(POLICY), Engine(REFERENCE), beta=beta).score(
            [answer(t) for t in TEXTS[:2]]
        )
    ]
    rows = [rendered(t) for t in TEXTS[:2]]
    out: list[list[float]] = []
    for model in (POLICY, REFERENCE):
        logp = Engine(model).frozen_logprobs(Batch.pack(rows)).logp
        assert logp is not None
        out.append([float(logp[: len(rows[0])].sum()), float(logp[len(rows[0]) :].sum())])
    gap = torch.tensor(out[0][0] - out[1][0] - out[0][1] + out[1][1])
    loss = dpo(gap, torch.tensor(1.0), beta=beta)
    assert float(loss) == pytest.approx(math.log1p(math.exp(values[1] - values[0])), abs=1e-4)


def test_implicit_rewards_are_antisymmetric_and_vanish_at_the_reference() -> None:
    rows = [answer(t) for t in TEXTS]
    one = ImplicitReward("r", Engine(POLICY), Engine(REFERENCE)).score(rows)
    other = ImplicitReward("r", Engine(REFERENCE), Engine(POLICY)).score(rows)
    same = ImplicitReward("r", Engine(POLICY), Engine(POLICY)).score(rows)
    assert [s.value for s in one] == pytest.approx([-(s.value or 0) for s in other])
    assert [s.value for s in same] == [0.0] * 3


def test_token_values_sum_to_the_value_and_stand_where_the_actions_are() -> None:
    sampled = replace(rendered(TEXTS[0]), temperature=0.5)
    rollout = replace(answer(TEXTS[0]), sequence=sampled)
    by_ids = ImplicitReward("r", Engine(POLICY), Engine(REFERENCE), reads_ids=True).score([rollout])[0]
    by_text = ImplicitReward("r", Engine(POLICY), Engine(REFERENCE)).score([answer(TEXTS[0])])[0]
    assert by_ids.tokens is not None
    assert len(by_ids.tokens) == len(sampled)
    assert sum(by_ids.tokens) == pytest.approx(by_ids.value)
    assert all(x == 0 for x, a in zip(by_ids.tokens, sampled.action, strict=True) if not a)
    assert by_text.tokens is None  # these ids are not the rollout's
    assert by_text.value == pytest.approx(by_ids.value, abs=1e-5)  # at temperature 1, however it was sampled


def test_step_values_part_the_value() -> None:
    reward = ImplicitReward("r", Engine(POLICY), Engine(REFERENCE))
    rows = [answer(TEXTS[1]), answer(""), answer("One. Two. Three.")]
    two, none, three = reward.step_values(rows, "sentence")
    assert isinstance(two, list)
    assert isinstance(three, list)
    assert (len(two), len(three)) == (2, 3)
    assert isinstance(none, Score)
    assert none.status == "abstain"
    sampled = replace(rows[0], sequence=rendered(TEXTS[1]))
    tokens = ImplicitReward("r", Engine(POLICY), Engine(REFERENCE), reads_ids=True).score([sampled])[0].tokens
    assert tokens is not None
    stop = tokens[-1]  # the stop token is no step's
    assert sum(two) == pytest.approx(sum(tokens) - stop, abs=1e-5)


def test_policies_with_other_tokenizers_are_refused() -> None:
    other = tiny_policy()
    other.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="different tokenizers"):
        ImplicitReward("r", Engine(POLICY), Engine(other))


def test_certainty_by_hand() -> None:
    row = rendered(TEXTS[0])
    with torch.no_grad():
        logp = POLICY.hf(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    at = torch.tensor(row.action).nonzero().squeeze(-1) - 1
    uniform = torch.full_like(logp[at], 1 / logp.shape[-1])
    divergence = (uniform * (uniform.log() - logp[at])).sum(-1).mean()
    entropy = -(logp[at].exp() * logp[at]).sum(-1).mean()
    found = [
        Certainty("r", Engine(POLICY), m).score([answer(TEXTS[0])])[0].value
        for m in ("self_certainty", "negative_entropy")
    ]
    assert found == pytest.approx([float(divergence), -float(entropy)], abs=1e-4)
    assert "right or wrong" in Certainty("r", Engine(POLICY)).warning


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 12),
    st.integers(2, 12),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 99),
    st.floats(0.1, 50),
)
def test_matrix_entropy_lies_in_the_unit_interval(
    n: int, d: int, alpha: float, seed: int, scale: float
) -> None:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    value = matrix_entropy(z, alpha=alpha)
    assert -1e-9 <= value <= 1 + 1e-9
    turned = z[torch.randperm(n, generator=torch.Generator().manual_seed(seed))] * scale + 3
    assert matrix_entropy(turned, alpha=alpha) == pytest.approx(value, abs=1e-3)


def test_matrix_entropy_of_known_spectra() -> None:
    simplex = torch.eye(5)  # centred, four equal eigenvalues
    for alpha in (0.5, 1.0, 2.0):
        assert matrix_entropy(simplex, alpha=alpha) == pytest.approx(1)
        assert matrix_entropy(simplex, alpha=alpha, normalise=False) == pytest.approx(math.log(4))
    line = torch.arange(6.0)[:, None] * torch.ones(1, 8)
    assert matrix_entropy(line) == pytest.approx(0, abs=1e-9)
    assert matrix_entropy(torch.ones(4, 3)) == 0
    assert matrix_entropy(torch.ones(1, 3)) == 0
    assert matrix_entropy(torch.zeros(0, 3)) == 0
    z = torch.diag(torch.tensor([2.0, 1.0]))
    assert matrix_entropy(z, alpha=2, centre=False, normalise=False) == pytest.approx(
        -math.log(0.8**2 + 0.2**2)
    )


def test_only_the_normalised_entropy_is_no_reward_for_length() -> None:
    draw = torch.Generator().manual_seed(0)
    states = [torch.randn(n, 600, generator=draw) for n in (16, 64, 256)]
    assert np.ptp([matrix_entropy(z) for z in states]) < 0.1
    raw = [matrix_entropy(z, normalise=False) for z in states]
    assert raw[0] + 1 < raw[1] < raw[2] - 1


def test_matrix_entropy_reads_the_answer_alone_and_can_be_gated() -> None:
    row = rendered(TEXTS[0])
    with torch.no_grad():
        states = POLICY.hf(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
    at = torch.tensor(row.action)
    by_hand = np.mean([matrix_entropy(states[i][0][at]) for i in (0, 2)])
    reward = MatrixEntropy("r", Engine(POLICY), layers=[0, 2])
    assert reward.score([answer(TEXTS[0])])[0].value == pytest.approx(by_hand, abs=1e-4)
    gated = MatrixEntropy("r", Engine(POLICY), layers=[0, 2], only_if=OnlyWithTime())
    paid, unpaid, _ = gated.score([answer(TEXTS[0]), answer(TEXTS[1]), answer("")])
    assert paid.value == pytest.approx(by_hand, abs=1e-4)
    assert unpaid.value == 0
    assert unpaid.parts["matrix_entropy"] > 0
    assert reward.score([answer("")])[0].status == "abstain"
    with pytest.raises(UserError, match="layers"):
        MatrixEntropy("r", Engine(POLICY), layers=[3])


def test_settings_build_each_kind() -> None:
    for made in (
        GenerativeSettings(model="dpo"),
        ImplicitSettings(policy="dpo", beta=0.5),
        CertaintySettings(kind="negative_entropy"),
        MatrixEntropySettings(only_if="has_time"),
    ):
        score = made.build("r", Policies()).score([answer(TEXTS[0])])[0]
        assert score.value is not None
        assert score.parts["r"] == score.value


def test_a_reader_ignores_the_sampling_temperature() -> None:
    sampled = replace(rendered(TEXTS[0]), temperature=0.5)
    read = Reader(POLICY.tokenizer, reads_ids=True)(replace(answer(TEXTS[0]), sequence=sampled))
    assert isinstance(read, Sequence)
    assert read.temperature == 1.0
    assert read.ids == sampled.ids
