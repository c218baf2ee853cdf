"""Rules extract an answer rather than find a number; a reward model's score depends on its text alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.types import Example, Message, Prompt, Rollout
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_example, render_prompt
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.rewards.learned import LearnedReward
from rewardlab.rewards.rules import NumericAnswer, final_number
from support import tiny_reward_model

MODEL = tiny_reward_model()
PLACEHOLDER = Tokens((0,), (False,))


def given_answer(text: str, answer: object = "72") -> Rollout:
    prompt = Prompt((Message("user", "How many?"),), meta={"answer": answer}, place="a.jsonl:1")
    return Rollout(prompt, PLACEHOLDER, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48 + 24 = 72\n#### 72", 72.0),
        ("#### 1,234.50", 1234.5),
        ("The answer is $-7.", -7.0),
        ("The answer is: 12. Later the answer is 13.", 13.0),
        ("She has 72 clips.", None),
        ("", None),
        ("#### many", None),
    ],
)
def test_final_number(text: str, expected: float | None) -> None:
    assert final_number(text) == expected


def test_numeric_answer_scores_and_errors() -> None:
    rows = [
        given_answer("#### 72"),
        given_answer("#### 73"),
        given_answer("72"),
        given_answer("#### 72", "?"),
    ]
    scores = NumericAnswer().score(rows)
    assert [s.value for s in scores] == [1.0, 0.0, 0.0, None]
    assert scores[1].parts == {"correct": 0.0, "answered": 1.0}
    assert scores[3].status == "error"
    assert "a.jsonl:1" in scores[3].reason


@settings(deadline=None, max_examples=15)
@given(
    texts=st.lists(st.text(max_size=30).filter(lambda t: "<|" not in t), min_size=1, max_size=5),
    budget=st.integers(1, 200),
    layout=st.sampled_from(["padded", "packed"]),
)
def test_a_score_depends_on_its_own_text_alone(texts: list[str], budget: int, layout: str) -> None:
    rows = [given_answer(t) for t in texts]
    engine = Engine(MODEL, EngineSettings(tokens_per_microbatch=budget, layout=layout))
    together = [s.value for s in LearnedReward("rm", engine).score(rows)]
    alone = [LearnedReward("rm", Engine(MODEL)).score([r])[0].value for r in rows]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_of_the_tokenizer_is_irrelevant(side: str) -> None:
    rows = [given_answer("short"), given_answer("a much longer answer than the other one")]
    expected = [s.value for s in LearnedReward("rm", Engine(MODEL)).score(rows)]
    padded = tiny_reward_model()
    padded.tokenizer.padding_side = side
    assert [s.value for s in LearnedReward("rm", Engine(padded)).score(rows)] == expected
    hf = padded.hf  # by hand: both rows padded on this side, scored at the last real position
    ids = [LearnedReward("rm", Engine(padded))._tokens(r).ids for r in rows]
    batch = padded.tokenizer.pad({"input_ids": [list(i) for i in ids]}, return_tensors="pt")
    position = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = hf.base_model(**batch, position_ids=position).last_hidden_state
    last = [-1, -1] if side == "left" else [len(i) - 1 for i in ids]
    by_hand = [float(hf.score(hidden[n, at])) for n, at in enumerate(last)]
    assert by_hand == pytest.approx(expected, abs=1e-5)


def test_sampled_ids_and_their_text_score_the_same() -> None:
    prompt = Prompt((Message("user", "Cost?"),))
    answer = "The cost is about two dollars."
    row = render_example(MODEL.tokenizer, Example((*prompt.messages, Message("assistant", answer)))).sequence
    assert row.ids[: len(render_prompt(MODEL.tokenizer, prompt))] == tuple(
        render_prompt(MODEL.tokenizer, prompt)
    )
    sampled = Rollout(prompt, row, answer)
    by_ids = LearnedReward("rm", Engine(MODEL), reads_ids=True).score([sampled])[0].value
    by_text = LearnedReward("rm", Engine(MODEL)).score([sampled])[0].value
    assert by_ids == pytest.approx(by_text, abs=1e-6)


def test_one_unreadable_text_does_not_spoil_the_others() -> None:
    rows = [given_answer("fine"), given_answer("a <|im_end|> inside"), given_answer("fine too")]
    scores = LearnedReward("rm", Engine(MODEL)).score(rows)
    assert [s.status for s in scores] == ["ok", "error", "ok"]
    assert "special token" in scores[1].reason


def test_a_broken_model_gives_errors_and_not_zeros() -> None:
    broken = tiny_reward_model()
    with torch.no_grad():
        broken.hf.score.weight.fill_(float("nan"))
    rows: Sequence[Rollout] = [given_answer("fine")]
    assert LearnedReward("rm", Engine(broken)).score(rows)[0].status == "error"
