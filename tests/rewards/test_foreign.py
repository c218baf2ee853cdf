"""Reward functions of other libraries used here unchanged, and ours in their forms."""

from __future__ import annotations

from typing import Any

import pytest

from rewardlab.core.types import Score
from rewardlab.rewards.foreign import TrlReward, VerlReward, as_openrlhf, as_trl, as_verl
from rewardlab.rewards.rules import NumericAnswer, TextLength
from rewardlab.rewards.texts import to_rollouts

ROWS = to_rollouts(["p", "q"], ["one two", "three"], [{"answer": "5"}, {"answer": "x"}])


def test_a_trl_function_sees_columns_and_may_say_none() -> None:
    def f(prompts: list[str], completions: list[str], answer: list[str], **kwargs: Any) -> list[float | None]:
        assert kwargs["completion_ids"] == [[], []]
        return [float(a) if a.isdigit() else None for a in answer]

    assert [(s.value, s.status) for s in TrlReward(f).score(ROWS)] == [(5.0, "ok"), (None, "abstain")]

    async def g(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(c[0]["content"])) for c in completions]

    assert [s.value for s in TrlReward(g, messages=True).score(ROWS)] == [7.0, 5.0]
    assert {s.status for s in TrlReward(lambda **_: [1.0], "short").score(ROWS)} == {"error"}


def test_trls_own_reward_functions_work() -> None:
    rewards = pytest.importorskip("trl.rewards")
    rows = to_rollouts(["p", "p"], ["<think>\nhm\n</think>\n4", "4"])
    reward = TrlReward(rewards.think_format_reward, messages=True)
    assert [s.value for s in reward.score(rows)] == [1.0, 0.0]


def test_a_verl_function_gets_its_four_arguments() -> None:
    def f(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> Any:
        return {
            "score": float(solution_str == ground_truth),
            "from": len(data_source),
            "note": extra_info["n"],
        }

    meta = [
        {"data_source": "gsm", "ground_truth": "4", "extra_info": {"n": 1}},
        {"data_source": "gsm", "reward_model": {"ground_truth": "5"}, "extra_info": {"n": 2}},
        {"data_source": "gsm", "ground_truth": "5"},
        {},
    ]
    scores = VerlReward(f).score(to_rollouts(["p"] * 4, ["4"] * 4, meta))
    assert [s.value for s in scores] == [1.0, 0.0, None, None]
    assert scores[0].parts == {"from": 3.0, "note": 1.0}
    assert [s.status for s in scores[2:]] == ["error", "error"]


def test_ours_in_their_forms() -> None:
    numeric = NumericAnswer("right")
    trl = as_trl(numeric)
    assert trl.__name__ == "right"
    assert trl(prompts=["p", "p"], completions=["#### 5", "#### 5"], answer=["5", "?"]) == [1.0, None]
    chat = [[{"role": "assistant", "content": "#### 5"}]]
    assert trl(prompts=[[{"role": "user", "content": "p"}]], completions=chat, answer=["5"]) == [1.0]
    assert as_verl(numeric)("gsm", "#### 5", "5") == {"correct": 1.0, "answered": 1.0, "score": 1.0}
    with pytest.raises(ValueError, match="no reward"):
        as_verl(numeric)("gsm", "#### 5", "?")
    assert as_verl(numeric, missing=-1.0)("gsm", "#### 5", "?")["score"] == -1.0
    said = as_openrlhf(TextLength())(["Q: a b", "Q: c"], ["Q:", "Q:"], ["", ""])
    assert said["rewards"].tolist() == [2.0, 1.0]


def test_there_and_back_is_the_same_reward() -> None:
    assert [s.value for s in TrlReward(as_trl(TextLength())).score(ROWS)] == [2.0, 1.0]
    assert TrlReward(as_trl(NumericAnswer())).score(ROWS)[1] == Score.abstain("numeric_answer gave None")
