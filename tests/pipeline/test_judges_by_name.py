"""Judges of a recipe: round trip, audits by name, tournaments, and names that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rewardlab.cli.main import app
from rewardlab.core.errors import UserError
from rewardlab.core.recipes import dump_yaml, load_settings
from rewardlab.core.types import Message, Prompt, Rollout, Sequence
from rewardlab.judges.scores import logistic
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from rewardlab.rewards.catalog import from_yaml
from support import save_policy

JUDGES: dict[str, Any] = {
    "fair": {"kind": "of_reward", "reward": "gold"},
    "first": {"kind": "position_biased", "judge": "fair", "shift": 3.0},
    "noise": {"kind": "noisy", "judge": "fair", "rate": 0.3, "seed": 1},
    "long": {"kind": "longer", "words": 5.0},
    "all": {"kind": "jury", "weights": {"fair": 2.0, "long": 1.0}, "count": "mean", "quorum": 2},
    "twice": {"kind": "both_orders", "judge": "first"},
    "strict": {"kind": "both_orders", "judge": "first", "inconsistent_abstains": True},
}
AUDIT = {
    **{"kind": "audit", "probe_pairs": 60, "attack_calls": 200, "only": ["invariance"]},
    "data": {"source": "world", "split": "heldout", "rows": 100},
}


def recipe(rewards: dict[str, Any] | None = None, judges: dict[str, Any] = JUDGES, **stage: Any) -> Recipe:
    whole = {"name": "j", "model": "embedded:advice-base", "world": {}, "judges": judges}
    stages = [{**AUDIT, "reward": "fair", **stage}]
    return load_settings(Recipe, {**whole, "rewards": rewards or {}, "stages": stages}).value


def answer(text: str) -> Rollout:
    return Rollout(Prompt((Message("user", "Which?"),)), Sequence((0,), (False,)), text)


def test_the_audit_of_a_recipe_catches_the_judge_that_likes_the_first_answer(tmp_path: Path) -> None:
    summary = run_recipe(recipe(against=["first", "twice", "gold"]), tmp_path / "run")
    cards = json.loads((tmp_path / "run" / "audit.json").read_text())["rewards"]
    assert list(cards) == ["fair", "first", "twice", "gold"]
    found = {
        name: {m["name"]: m["light"] for m in card["sections"]["invariance"]["measures"]}
        for name, card in cards.items()
    }
    assert found["fair"]["position"] == found["fair"]["identical"] == "ok"
    assert found["first"]["position"] == found["first"]["identical"] == "fail"
    assert found["twice"]["position"] == "ok"
    assert "position" not in found["gold"]
    assert summary["audit"]["lights"]["fair"] == "ok"
    assert summary["audit"]["lights"]["first"] == "fail"


def test_a_judge_is_audited_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "judges.yaml"
    file.write_text(yaml.safe_dump({"judges": JUDGES}))
    small = ["stages.0.probe_pairs=30", "stages.0.data.rows=60", "stages.0.only=[invariance]"]
    command = ["audit", f"{file}:first", "world", *small, "--runs", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert json.loads(result.stdout)["audit"]["lights"] == {"first": "fail"}


def test_every_judge_comes_back_from_yaml_and_gives_the_same_verdicts() -> None:
    rewards = {"relative": {"kind": "tournament", "judge": "all"}}
    before = recipe(rewards)
    text = dump_yaml(before)
    after = load_settings(Recipe, yaml.safe_load(text)).value
    assert after == before
    assert list(after.judges) == list(JUDGES)
    pairs = [(answer("one two three"), answer("one")), (answer("one"), answer("a b c d e f"))]
    on_length = {**JUDGES, "fair": {"kind": "of_reward", "reward": "brief"}}
    sections = {"rewards": {"brief": {"kind": "length_band", "maximum": 2, "slope": 2}}, "judges": on_length}
    book = from_yaml(yaml.safe_dump(sections))
    again = from_yaml(yaml.safe_dump(sections))
    for name in JUDGES:
        assert book.judge(name).compare(pairs) == again.judge(name).compare(pairs)
        assert book.judge(name).name == name
    assert book.judge("long").compare(pairs)[0].first == pytest.approx(logistic(2 / 5))
    fair, long, jury = (book.judge(n).compare(pairs)[0].first for n in ("fair", "long", "all"))
    assert jury == pytest.approx((2 * fair + long) / 3)


def test_a_tournament_is_decided_by_a_judge_of_the_book() -> None:
    book = from_yaml(
        "{rewards: {t: {kind: tournament, judge: long}}, judges: {long: {kind: longer, words: 0.01}}}"
    )
    scores = book.reward("t").score([answer("a b c"), answer("a"), answer("a b")])
    assert [s.value for s in scores] == pytest.approx([1.0, 0.0, 0.5])


def test_a_function_of_two_texts_is_a_judge(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def polite(a, b):\n    return 0.5 + 0.5 * ('please' in a) - 0.5 * ('please' in b)\n")
    book = from_yaml(yaml.safe_dump({"judges": {"j": {"kind": "function", "function": f"{file}:polite"}}}))
    assert book.judge("j").compare([(answer("please"), answer("now"))])[0].first == 1.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"reward": "fare"}, "did you mean 'fair'"),
        ({"reward": "xyzzy"}, "known: .*fair.*twice"),
        ({"judges": {**JUDGES, "fair": {"kind": "of_reward", "reward": "gould"}}}, "did you mean 'gold'"),
        (
            {"judges": {**JUDGES, "twice": {"kind": "both_orders", "judge": "frist"}}, "reward": "twice"},
            "known: fair, first",
        ),
        ({"judges": {"fair": {"kind": "noisy", "judge": "fair"}}}, "made of itself: fair -> fair"),
        ({"judges": {"fair": {"kind": "of_rewrd"}}}, "of_reward"),
        ({"judges": {**JUDGES, "length": {"kind": "longer"}}}, "something else already"),
        ({"judges": {**JUDGES, "jury": {"kind": "jury", "weights": {}}}}, "weights"),
        ({"reference": "fair"}, "is a judge; `kind: tournament`"),
        ({"rewards": {"t": {"kind": "tournament", "judge": "fare"}}, "reward": "t"}, "known: fair, first"),
        ({"rewards": {"t": {"kind": "tournament"}}, "reward": "t"}, "either `reward` or `judge`"),
        ({"rewards": {"s": {"kind": "sum", "weights": {"fair": 1.0}}}, "reward": "s"}, "'fair' is a judge"),
        (
            {
                "rewards": {"t": {"kind": "tournament", "judge": "fair"}},
                "judges": {"fair": {"kind": "of_reward", "reward": "t"}},
            },
            "t -> fair -> t",
        ),
    ],
)
def test_a_judge_that_cannot_work_is_refused_before_the_run(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        recipe(**change)


def test_a_policy_learns_from_a_tournament_before_a_judge(tmp_path: Path) -> None:
    grpo = {
        **{"kind": "grpo", "reward": "relative", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 3},
        **{"max_new_tokens": 12, "train_truncated": True, "data": {"source": "world", "rows": 8}},
    }
    whole = {"name": "j", "model": str(save_policy(tmp_path / "model")), "world": {}, "judges": JUDGES}
    rewards = {"relative": {"kind": "tournament", "judge": "long"}}
    settings = load_settings(Recipe, {**whole, "rewards": rewards, "stages": [grpo]}).value
    run_recipe(settings, tmp_path / "run")
    rows = StageRecord("grpo", tmp_path / "run" / "stages" / "grpo").read_rollouts(1)
    assert len(rows) == 6
    for group in {r.group for r in rows}:
        of_group = [r for r in rows if r.group == group]
        assert sum(r.score.value for r in of_group if r.score) == pytest.approx(1.5)  # shares of wins
        ranked = sorted(of_group, key=lambda r: len(r.text.split()))
        assert ranked[0].score.value <= ranked[-1].score.value
