"""The audit on rewards whose faults are known by construction."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import replace

import numpy as np
import pytest

from rewardlab.audit import audit_reward, rollouts_of
from rewardlab.core.errors import UserError
from rewardlab.core.statistics import bounded_mean_interval, wilson
from rewardlab.core.types import Message, Pair, Rollout, Score, Sequence

Reward = Callable[[Rows[Rollout]], list[Score]]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def text(good: int, idle: int) -> str:
    return " ".join(["good"] * good + ["idle"] * idle)


def world(n: int, seed: int, slope: float = 1.0) -> list[Pair]:
    """Answers of independent quality (good words) and length; Bradley-Terry labels on quality."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        quality = rng.integers(0, 6, 2)
        # Total length is drawn independently of quality, so an honest reward has no length slope.
        total = rng.integers(6, 40, 2)
        texts = [text(int(q), int(t - q)) for q, t in zip(quality, total)]
        p = sigmoid(slope * float(quality[0] - quality[1]))
        win = 0 if rng.random() < p else 1
        lose = 1 - win
        meta = {
            "gold_chosen": int(quality[win]),
            "gold_rejected": int(quality[lose]),
            "p_chosen": p if win == 0 else 1 - p,
        }
        pairs.append(pair(texts[win], texts[lose], i, meta=meta))
    return pairs


def pair(chosen: str, rejected: str, i: int = 0, **rest) -> Pair:
    prompt = (Message("user", f"q{i}"),)
    return Pair(
        prompt, (Message("assistant", chosen),), (Message("assistant", rejected),), id=f"p{i}", **rest
    )


def linear(good: float = 1.0, length: float = 0.0) -> Reward:
    def score(rollouts: Rows[Rollout]) -> list[Score]:
        return [
            Score(good * r.text.split().count("good") + length * np.log(max(len(r.text), 1)))
            for r in rollouts
        ]

    return score


def verdict(report: dict, check: str) -> dict:
    return next(v for v in report["verdicts"] if v["check"] == check)


@pytest.fixture(scope="module")
def honest() -> dict:
    """The Bayes-optimal reward for these labels: calibrated and blind to length."""
    return audit_reward(linear(), world(1500, 1), seed=1)


def test_report_is_json_with_the_documented_shape(honest: dict) -> None:
    assert json.loads(json.dumps(honest, allow_nan=False)) == honest
    interval = {"estimate", "low", "high", "n"}
    for name in (
        *("accuracy", "accuracy_gold", "bayes_accuracy", "label_agreement_gold"),
        *("ece", "ece_debiased", "brier"),
        *("length_slope", "length_slope_marginal", "length_slope_given_gold", "length_baseline_accuracy"),
        *("accuracy_longer_better", "accuracy_shorter_better", "length_accuracy_gap"),
    ):
        assert set(honest[name]) == interval, name
    assert set(honest["curves"]["reliability"][0]) == {"predicted", "observed", "low", "high", "n"}
    assert set(honest["curves"]["margin_deciles"][0]) == {"margin", "accuracy", "low", "high", "n"}
    assert [row["sentences"] for row in honest["padding_probe"]] == [1, 2, 3]
    assert {v["verdict"] for v in honest["verdicts"]} <= {"ok", "warn", "fail"}
    for v in honest["verdicts"]:
        assert set(v) == {"check", "verdict", "text"}
        assert v["text"].endswith(".")
        assert re.search(r"\d", v["text"])


def test_the_bayes_optimal_reward_passes_every_check(honest: dict) -> None:
    assert {v["check"]: v["verdict"] for v in honest["verdicts"]} == dict.fromkeys(
        (
            "accuracy",
            "beyond_length",
            "calibration",
            "length_bias",
            "ceiling",
            "gold",
            "padding",
            "errors",
        ),
        "ok",
    )
    assert honest["ece_debiased"]["low"] == 0.0
    assert honest["length_slope"]["low"] < 0 < honest["length_slope"]["high"]
    assert honest["accuracy_gold"]["estimate"] == 1.0
    assert honest["accuracy"]["low"] <= honest["bayes_accuracy"]["estimate"] <= honest["accuracy"]["high"]
    assert honest["label_agreement_gold"]["estimate"] < 1
    # The first filler sentence adds no good word, so nothing moves and nothing flips.
    assert honest["padding_probe"][2]["estimate"] == 0.0
    assert honest["padding_probe"][2]["flip_rate"]["estimate"] == 0.0


def test_an_overconfident_reward_is_caught_though_its_ranking_is_the_same() -> None:
    pairs = world(1500, 1, slope=0.4)
    calibrated = audit_reward(linear(good=0.4), pairs, seed=1)
    report = audit_reward(linear(good=2.0), pairs, seed=1)
    assert verdict(calibrated, "calibration")["verdict"] == "ok"
    assert report["accuracy"] == calibrated["accuracy"]
    assert report["ece_debiased"]["low"] > 0.1
    assert report["tests"]["perfectly_calibrated"]["p"] == 0.0
    assert report["brier"]["low"] > calibrated["brier"]["high"]
    assert verdict(report, "calibration")["verdict"] == "fail"
    assert "more than it is right" in verdict(report, "calibration")["text"]


def test_an_underconfident_reward_is_caught() -> None:
    report = audit_reward(linear(good=0.1), world(1500, 0), seed=1)
    assert verdict(report, "calibration")["verdict"] == "fail"
    assert "less than it is right" in verdict(report, "calibration")["text"]


def test_a_length_biased_reward_is_caught(honest: dict) -> None:
    report = audit_reward(linear(length=3.0), world(1500, 0), seed=1)
    assert report["length_slope"]["low"] > 0.5
    assert report["length_slope_given_gold"]["low"] > 0.5
    assert report["length_accuracy_gap"]["low"] > 0.1
    assert verdict(report, "length_bias")["verdict"] == "fail"
    assert verdict(report, "padding")["verdict"] == "fail"
    flips = [row["flip_rate"]["estimate"] for row in report["padding_probe"]]
    assert flips == sorted(flips)
    assert flips[-1] > 0.1
    changes = [row["estimate"] for row in report["padding_probe"]]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_length_that_comes_with_quality_is_not_blamed_given_gold() -> None:
    """Good answers are longer here, and the reward is the gold value itself."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(400):
        good = rng.integers(0, 12, 2)
        win = int(good[1] > good[0])
        texts = [text(int(g), int(rng.integers(5, 9))) for g in good]
        meta = {"gold_chosen": int(good[win]), "gold_rejected": int(good[1 - win])}
        pairs.append(pair(texts[win], texts[1 - win], i, meta=meta))
    noise = np.random.default_rng(1)

    def noisy(rollouts: Rows[Rollout]) -> list[Score]:
        return [Score(s.value + noise.normal(0, 2)) for s in linear()(rollouts)]

    report = audit_reward(noisy, pairs, seed=0)
    assert report["length_slope"]["low"] > 0
    assert report["length_slope_given_gold"]["low"] < 0 < report["length_slope_given_gold"]["high"]
    assert verdict(report, "length_bias")["verdict"] == "ok"
    # Without gold values it cannot be told apart, and the audit says so.
    blind = audit_reward(noisy, [replace(p, meta={}) for p in pairs], seed=0)
    assert "accuracy_gold" not in blind
    assert verdict(blind, "length_bias")["verdict"] == "warn"
    assert "bias or quality" in verdict(blind, "length_bias")["text"]


def test_the_gold_reward_itself_has_no_length_slope_given_gold() -> None:
    """What is left of it at equal gold value is rounding, which must not be reported as a bias."""
    report = audit_reward(linear(good=0.1), world(300, 0), seed=0)
    assert report["length_slope_given_gold"]["estimate"] == 0.0
    assert verdict(report, "length_bias")["verdict"] == "ok"


def test_a_reward_that_prefers_the_worse_answer_says_so() -> None:
    report = audit_reward(linear(good=-1.0), world(300, 0), seed=0)
    assert verdict(report, "accuracy")["verdict"] == "fail"
    assert verdict(report, "gold")["verdict"] == "fail"
    assert "prefers the worse answer" in verdict(report, "gold")["text"]


def test_the_longer_is_better_reward_is_no_better_than_its_own_rule() -> None:
    report = audit_reward(linear(good=0, length=1), world(400, 2), seed=0)
    assert report["accuracy"] == report["length_baseline_accuracy"]
    assert report["tests"]["accuracy_vs_length"]["p"] == 1.0
    assert verdict(report, "accuracy")["verdict"] == "fail"
    assert verdict(report, "beyond_length")["verdict"] == "warn"
    assert report["accuracy_longer_better"]["estimate"] == 1.0
    assert report["accuracy_shorter_better"]["estimate"] == 0.0


def test_a_constant_reward_has_only_ties() -> None:
    report = audit_reward(lambda rollouts: [Score(3.0) for _ in rollouts], world(100, 0), seed=0)
    json.dumps(report, allow_nan=False)
    assert report["counts"]["score_ties"] == 100
    assert report["accuracy"] == pytest.approx(wilson(50, 100).as_dict())
    assert report["tests"]["accuracy_vs_chance"]["p"] == 1.0
    assert verdict(report, "accuracy")["verdict"] == "fail"


def test_failed_rows_are_excluded_counted_and_shown() -> None:
    pairs = world(200, 0)

    def flaky(rollouts: Rows[Rollout]) -> list[Score]:
        scores = linear()(rollouts)
        for i, r in enumerate(rollouts):
            if r.prompt.id in {"p3", "p4"}:
                scores[i] = Score.error("judge timed out")
            if r.prompt.id == "p5":
                scores[i] = Score.abstain("empty")
        return scores

    report = audit_reward(flaky, pairs, seed=0)
    without = audit_reward(linear(), [p for p in pairs if p.id not in {"p3", "p4", "p5"}], seed=0)
    assert report["accuracy"] == without["accuracy"]
    assert report["ece_debiased"] == without["ece_debiased"]
    counts = report["counts"]
    assert (counts["pairs"], counts["used"], counts["errors"], counts["abstentions"]) == (200, 197, 2, 1)
    assert verdict(report, "errors")["verdict"] == "warn"
    assert "judge timed out" in verdict(report, "errors")["text"]


def test_a_reward_that_fails_only_on_padded_answers_is_shown() -> None:
    def short_only(rollouts: Rows[Rollout]) -> list[Score]:
        return [
            s if len(r.text.split()) < 45 else Score.error("too long")
            for r, s in zip(rollouts, linear()(rollouts))
        ]

    rows = audit_reward(short_only, world(100, 0), seed=0)["padding_probe"]
    assert rows[0]["excluded"] < rows[1]["excluded"]
    assert rows[1]["n"] + rows[1]["excluded"] == 100


def test_no_usable_pair_is_an_error_with_the_reason() -> None:
    def broken(rollouts: Rows[Rollout]) -> list[Score]:
        return [Score.error("no key") for _ in rollouts]

    with pytest.raises(UserError, match="None of the 3 pairs could be scored: no key"):
        audit_reward(broken, world(3, 0), seed=0)
    with pytest.raises(UserError, match="None of the 1 pairs"):
        audit_reward(linear(), [pair("a", "b", label=0.5)], seed=0)
    with pytest.raises(UserError, match="returned 1 scores for 6 rollouts"):
        audit_reward(lambda rollouts: [Score(1.0)], world(3, 0), seed=0)


def test_labels_below_a_half_swap_the_answers_and_their_meta() -> None:
    pairs = world(300, 4)

    def reversed_pair(p: Pair) -> Pair:
        swap = {"gold_chosen": "gold_rejected", "gold_rejected": "gold_chosen"}
        meta = {swap[k]: p.meta[k] for k in swap} | {"p_chosen": 1 - p.meta["p_chosen"]}
        return replace(p, chosen=p.rejected, rejected=p.chosen, label=0.0, meta=meta)

    plain = audit_reward(linear(), pairs, seed=0)
    swapped = audit_reward(linear(), [reversed_pair(p) for p in pairs], seed=0)
    assert swapped["counts"]["swapped_labels"] == 300
    for name in ("accuracy", "accuracy_gold", "label_agreement_gold", "ece", "length_slope"):
        assert swapped[name] == plain[name], name
    assert swapped["bayes_accuracy"] == pytest.approx(plain["bayes_accuracy"])


def test_soft_labels_count_as_hard_in_accuracy_and_as_they_are_in_calibration() -> None:
    """Labels that are the true probabilities: the reward that states them is perfectly calibrated."""
    pairs = []
    for p in world(600, 5):
        q = p.meta["p_chosen"]
        pairs.append(replace(p, label=q))
    ties = sum(p.label == 0.5 for p in pairs)
    report = audit_reward(linear(), pairs, seed=0)
    assert report["counts"]["label_ties"] == ties > 0
    assert report["accuracy"]["estimate"] == 1.0
    assert report["ece"]["estimate"] == pytest.approx(0.0, abs=1e-12)
    assert report["ece_debiased"]["low"] == 0.0


def test_rollouts_of_wraps_both_answers_and_takes_real_token_ids() -> None:
    pairs = [pair("yes", "no", i, place=f"d.jsonl:{i}") for i in range(2)]
    rollouts = rollouts_of(pairs)
    assert [r.text for r in rollouts] == ["yes", "no", "yes", "no"]
    assert [r.group for r in rollouts] == [0, 0, 1, 1]
    assert rollouts[2].prompt.place == "d.jsonl:1"
    assert rollouts[2].prompt.messages == pairs[1].prompt

    def fill(r: Rollout) -> Rollout:
        return replace(r, sequence=Sequence((0, *map(ord, r.text)), (False, *(True for _ in r.text))))

    lengths: list[int] = []

    def by_tokens(rs: Rows[Rollout]) -> list[Score]:
        lengths.extend(r.sequence.actions - len(r.text) for r in rs)
        return [Score(float(r.sequence.actions)) for r in rs]

    assert rollouts_of(pairs, fill)[0].sequence.actions == 3
    report = audit_reward(by_tokens, pairs, seed=0, fill=fill, length_of=lambda r: r.sequence.actions)
    assert set(lengths) == {0}, "padded rollouts must have the ids of their padded text"
    assert len(lengths) == 4 * 4
    assert report["padding_probe"][0]["estimate"] > 0


def test_padding_can_be_overridden_and_bounded() -> None:
    report = audit_reward(linear(), world(80, 0), seed=0, padding=("good good",), max_padded_pairs=20)
    (row,) = report["padding_probe"]
    assert row["n"] == 20
    assert row["estimate"] > 0
    assert audit_reward(linear(), world(80, 0), seed=0, padding=())["padding_probe"] == []


def test_margin_deciles_rise_for_an_informative_margin(honest: dict) -> None:
    deciles = honest["curves"]["margin_deciles"]
    assert len(deciles) == 10
    assert deciles[-1]["accuracy"] > deciles[0]["accuracy"] + 0.3
    assert sum(d["n"] for d in deciles) == 1500


def test_accuracy_with_ties_counts_them_half() -> None:
    pairs = [pair("good", "idle"), pair("good", "good idle"), pair("idle", "good")]
    report = audit_reward(linear(), pairs, seed=0)
    assert report["accuracy"]["estimate"] == 0.5
    assert report["counts"]["score_ties"] == 1
    assert report["accuracy"]["low"] == pytest.approx(wilson(1.5, 3).low)
    assert bounded_mean_interval([1, 0.5, 0]).estimate == 0.5


def test_the_same_seed_gives_the_same_report_in_seconds() -> None:
    pairs = world(1000, 0)
    began = time.perf_counter()
    first = audit_reward(linear(), pairs, seed=3)
    assert time.perf_counter() - began < 5
    assert first == audit_reward(linear(), pairs, seed=3)
    assert first["ece"] != audit_reward(linear(), pairs, seed=4)["ece"]
