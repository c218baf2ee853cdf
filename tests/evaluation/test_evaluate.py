"""The evaluation table on policies whose differences are known by construction."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Sequence as Rows
from dataclasses import replace

import numpy as np
import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.statistics import newcombe_paired, wilson
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence, StopReason
from rewardlab.evaluation import TokenStatistics, evaluate
from rewardlab.evaluation.diversity import distinct_measure, equal_size_corpora


def answer(prompt: int, ids: Rows[int], stop: StopReason = "stop") -> Rollout:
    sequence = Sequence((0, *ids), (False, *(True for _ in ids)), stop=stop)
    text = " ".join(str(i) for i in ids)
    return Rollout(Prompt((Message("user", f"q{prompt}"),), id=f"p{prompt}"), sequence, text)


def policy(
    rng: np.random.Generator, prompts: int, samples: int, length: int = 8, vocabulary: int = 50
) -> list[Rollout]:
    return [
        answer(i, [int(t) for t in rng.integers(0, vocabulary, length)])
        for i in range(prompts)
        for _ in range(samples)
    ]


def ok(values: Rows[float]) -> list[Score]:
    return [Score(float(v)) for v in values]


def row(result: dict, metric: str, name: str = "new") -> dict:
    return next(c for c in result["comparisons"] if c["metric"] == metric and c["policy"] == name)


def test_shape_is_the_documented_one_and_json() -> None:
    rng = np.random.default_rng(0)
    rollouts = {"base": policy(rng, 40, 2), "new": policy(rng, 40, 2)}
    scores = {n: {p: ok(rng.normal(size=80)) for p in rollouts} for n in ("gold", "proxy")}
    tokens = {
        p: [TokenStatistics(rng.normal(size=8), rng.normal(size=8), np.ones(8)) for _ in r]
        for p, r in rollouts.items()
    }
    result = evaluate(
        rollouts,
        seed=1,
        scores=scores,
        judge="gold",
        tokens=tokens,
        behaviour=lambda text, prompt: {"has_opener": 1.0, "closer_rate": 0.0},
        format_valid=lambda r: True,
    )
    json.dumps(result, allow_nan=False)
    assert set(result) == {"policies", "comparisons", "counts"}
    common = {"gold", "proxy", "kl", "kl_per_token", "entropy", "length", "opener_rate", "closer_rate"}
    common |= {"distinct_1", "distinct_2", "format_valid", "stop_rate", "length_stop_rate"}
    assert set(result["policies"]["base"]) == common
    assert set(result["policies"]["new"]) == common | {"win_rate_vs_base"}
    assert set(result["policies"]["new"]["gold"]) == {"estimate", "low", "high", "n"}
    assert {frozenset(c) for c in result["comparisons"]} == {
        frozenset({"policy", "baseline", "metric", "estimate", "low", "high", "p", "p_holm", "n"})
    }
    assert len(result["comparisons"]) == len(common) + 1
    assert all(c["p_holm"] >= c["p"] for c in result["comparisons"])
    assert result == evaluate(
        rollouts,
        seed=1,
        scores=scores,
        judge="gold",
        tokens=tokens,
        behaviour=lambda text, prompt: {"has_opener": 1.0, "closer_rate": 0.0},
        format_valid=lambda r: True,
    )


def test_the_prompt_is_the_unit() -> None:
    """Copying every sample ten times adds no information, so no interval may narrow."""
    rng = np.random.default_rng(0)
    rollouts = policy(rng, 30, 1)
    gold = rng.normal(size=30)
    one = evaluate({"a": rollouts}, seed=0, scores={"gold": {"a": ok(gold)}})["policies"]["a"]
    copies = [r for r in rollouts for _ in range(10)]
    ten = evaluate({"a": copies}, seed=0, scores={"gold": {"a": ok(np.repeat(gold, 10))}})["policies"]["a"]
    assert ten["gold"] == pytest.approx(one["gold"])
    assert ten["stop_rate"] == pytest.approx(one["stop_rate"])
    assert ten["gold"]["n"] == 30


def test_errors_and_abstentions_are_counted_and_never_zero() -> None:
    rollouts = {"base": policy(np.random.default_rng(0), 4, 2), "new": policy(np.random.default_rng(1), 4, 2)}
    base = ok([5.0] * 8)
    new = ok([6.0] * 8)
    new[0], new[1], new[2] = Score.error("timeout"), Score.abstain("unsure"), Score.error("timeout")
    result = evaluate(rollouts, seed=0, scores={"gold": {"base": base, "new": new}}, judge="gold")
    assert result["policies"]["new"]["gold"]["estimate"] == 6.0
    assert result["policies"]["new"]["gold"]["n"] == 3
    assert result["policies"]["new"]["win_rate_vs_base"] == pytest.approx(wilson(3, 3).as_dict())
    assert result["counts"]["new"]["gold"] == {"ok": 5, "abstain": 1, "error": 2}
    assert row(result, "gold")["estimate"] == 1.0
    assert row(result, "gold")["n"] == 3


def test_a_reward_that_fails_everywhere_has_no_number() -> None:
    rollouts = {"base": policy(np.random.default_rng(0), 3, 1)}
    result = evaluate(rollouts, seed=0, scores={"gold": {"base": [Score.error("down")] * 3}})
    assert result["policies"]["base"]["gold"] == {"estimate": None, "low": None, "high": None, "n": 0}


def test_win_rate_uses_all_cross_pairs_and_halves_ties() -> None:
    rollouts = {"base": policy(np.random.default_rng(0), 1, 2), "new": policy(np.random.default_rng(1), 1, 3)}
    scores = {"gold": {"base": ok([1, 2]), "new": ok([2, 3, 0])}}
    # 2 beats 1 and ties 2; 3 beats both; 0 loses both: (1 + 0.5 + 2 + 0) / 6.
    result = evaluate(rollouts, seed=0, scores=scores, judge="gold")
    assert result["policies"]["new"]["win_rate_vs_base"]["estimate"] == pytest.approx(3.5 / 6)


def test_win_rate_against_oneself_is_even_and_certain_wins_keep_a_width() -> None:
    rng = np.random.default_rng(0)
    base = policy(rng, 50, 1)
    gold = rng.normal(size=50)
    rollouts = {"base": base, "same": base, "better": base}
    scores = {"gold": {"base": ok(gold), "same": ok(gold), "better": ok(gold + 1)}}
    result = evaluate(rollouts, seed=0, scores=scores, judge="gold")
    assert result["policies"]["same"]["win_rate_vs_base"]["estimate"] == 0.5
    assert row(result, "win_rate_vs_base", "same")["p"] == 1.0
    better = result["policies"]["better"]["win_rate_vs_base"]
    assert better["estimate"] == 1.0
    assert better["low"] == pytest.approx(wilson(50, 50).low)
    assert row(result, "win_rate_vs_base", "better")["low"] == pytest.approx(better["low"] - 0.5)


def test_comparisons_are_paired_by_prompt_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    base = policy(rng, 60, 1)
    difficulty = rng.normal(0, 10, 60)
    new_gold = difficulty + 1 + rng.normal(0, 0.5, 60)
    order = random.Random(1).sample(range(60), 60)
    rollouts = {"base": base, "new": [base[i] for i in order]}
    scores = {"gold": {"base": ok(difficulty), "new": ok(new_gold[order])}}
    found = row(evaluate(rollouts, seed=0, scores=scores), "gold")
    assert 0.7 < found["low"] < 1 < found["high"] < 1.3
    assert found["p_holm"] < 1e-6


def test_kl_and_its_lower_variance_form() -> None:
    """Every token costs about 0.1 nat, answers differ in length: per token varies less than per sequence."""
    rng = np.random.default_rng(0)
    rollouts, statistics = [], []
    for i in range(50):
        size = int(rng.integers(5, 60))
        reference = rng.normal(-2, 0.3, size)
        rollouts.append(answer(i, [1] * size))
        statistics.append(TokenStatistics(reference + rng.normal(0.1, 0.02, size), reference))
    result = evaluate({"a": rollouts}, seed=0, tokens={"a": statistics})["policies"]["a"]
    sums = [np.subtract(s.logp_policy, s.logp_ref).sum() for s in statistics]
    assert result["kl"]["estimate"] == pytest.approx(np.mean(sums))
    assert result["kl_per_token"]["low"] < 0.1 < result["kl_per_token"]["high"]

    def relative(m: dict) -> float:
        return (m["high"] - m["low"]) / m["estimate"]

    assert relative(result["kl_per_token"]) < 0.2 * relative(result["kl"])
    assert "entropy" not in result


def test_longer_answers_alone_change_neither_diversity_nor_entropy() -> None:
    rng = np.random.default_rng(0)
    short, long = policy(rng, 60, 1, 20, 900), policy(rng, 60, 1, 80, 900)

    def falling(size: int) -> TokenStatistics:
        return TokenStatistics(entropy=3 * 0.98 ** np.arange(size) + rng.normal(0, 0.1, size))

    tokens = {"base": [falling(20) for _ in short], "new": [falling(80) for _ in long]}
    result = evaluate({"base": short, "new": long}, seed=0, tokens=tokens)
    for metric in ("distinct_1", "distinct_2", "entropy"):
        found = row(result, metric)
        assert found["low"] <= 0 <= found["high"], metric
    assert row(result, "length")["estimate"] == 60


def test_a_collapsed_policy_is_seen() -> None:
    rng = np.random.default_rng(0)
    rollouts = {"base": policy(rng, 60, 1, 30, 500), "new": policy(rng, 60, 1, 30, 20)}
    result = evaluate(rollouts, seed=0)
    for metric in ("distinct_1", "distinct_2"):
        assert row(result, metric)["high"] < 0
        assert row(result, metric)["p_holm"] < 0.001


def test_distinct_by_hand() -> None:
    # 1 2 1 | 2 3: five tokens of three kinds; bigrams 12, 21, 23 all different, none across answers.
    rollouts = [answer(0, [1, 2, 1]), answer(1, [2, 3])]
    from rewardlab.evaluation.alignment import align

    corpus = equal_size_corpora({"a": rollouts}, align({"a": rollouts}))["a"]
    unigrams, bigrams = distinct_measure(corpus, 1, 0.95), distinct_measure(corpus, 2, 0.95)
    assert unigrams is not None
    assert bigrams is not None
    assert unigrams.interval.estimate == pytest.approx(3 / 5)
    assert bigrams.interval.estimate == 1.0
    # Without prompt 0: 2 kinds of 2 tokens; without prompt 1: 2 kinds of 3.
    assert unigrams.values == pytest.approx([3 / 5 + (5 / 6 - 1), 3 / 5 + (5 / 6 - 2 / 3)])
    assert distinct_measure(corpus, 4, 0.95) is None


def test_distinct_interval_covers_its_expectation() -> None:
    """Zipf-like texts: the jackknife interval holds the average distinct-1 over fresh corpora."""
    weights = 1 / np.arange(1, 400)
    weights /= weights.sum()

    def draw(seed: int) -> list[list[tuple[int, ...]]]:
        texts = np.random.default_rng(seed).choice(399, size=(60, 15), p=weights)
        return [[tuple(int(t) for t in text)] for text in texts]

    found = [m.interval for s in range(200) if (m := distinct_measure(draw(s), 1, 0.95)) is not None]
    truth = np.mean([i.estimate for i in found])
    assert np.mean([truth in i for i in found]) >= 0.93


def test_rates_with_one_answer_per_prompt_use_the_paired_rate_interval() -> None:
    base = [answer(i, [1, 2], "stop" if i < 30 else "length") for i in range(50)]
    new = [answer(i, [1, 2], "stop" if i < 38 else "length") for i in range(50)]
    result = evaluate({"base": base, "new": new}, seed=0)
    assert result["policies"]["base"]["stop_rate"] == pytest.approx(wilson(30, 50).as_dict())
    assert result["policies"]["base"]["length_stop_rate"]["estimate"] == pytest.approx(0.4)
    expected = newcombe_paired(30, 8, 0, 12)
    found = row(result, "stop_rate")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["p"] == pytest.approx(2 / 2**8)


def test_given_answers_have_no_stop_rate() -> None:
    rollouts = [answer(i, [1], "data") for i in range(3)]
    assert "stop_rate" not in evaluate({"a": rollouts}, seed=0)["policies"]["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:-1], "new did not answer 1 prompts that base did, such as 'p4'"),
        (lambda r: [*r, answer(9, [1])], "base did not answer 1 prompts that new did, such as 'p9'"),
        (lambda r: [], "new did not answer 5 prompts"),
        (lambda r: [replace(r[0], prompt=replace(r[0].prompt, id="", place="d.jsonl:3"))], "d.jsonl:3"),
    ],
)
def test_different_prompts_are_refused(change, message: str) -> None:
    base = policy(np.random.default_rng(0), 5, 1)
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate({"base": base, "new": change(base)}, seed=0)


def test_mismatched_input_is_refused_with_its_place() -> None:
    base = policy(np.random.default_rng(0), 5, 1)
    with pytest.raises(UserError, match="gold has 4 scores for the 5 rollouts of policy base"):
        evaluate({"base": base}, seed=0, scores={"gold": {"base": ok([1, 2, 3, 4])}})
    with pytest.raises(UserError, match="baseline 'x'"):
        evaluate({"base": base}, seed=0, baseline="x")
    with pytest.raises(UserError, match="judge 'x'"):
        evaluate({"base": base}, seed=0, judge="x")
    with pytest.raises(UserError, match="Rollout 0 of policy base: entropy needs 8 finite numbers"):
        evaluate({"base": base}, seed=0, tokens={"base": [TokenStatistics(entropy=[1.0])] * 5})
    with pytest.raises(UserError, match="Two metrics are called 'length'"):
        evaluate({"base": base}, seed=0, scores={"length": {"base": ok([1] * 5)}})


def test_a_thousand_prompts_take_seconds() -> None:
    rng = np.random.default_rng(0)
    rollouts = {p: policy(rng, 1000, 2, 40) for p in ("base", "new", "other")}
    scores = {"gold": {p: ok(rng.normal(size=2000)) for p in rollouts}}
    began = time.perf_counter()
    evaluate(rollouts, seed=0, scores=scores, judge="gold")
    assert time.perf_counter() - began < 5
