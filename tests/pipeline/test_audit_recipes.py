"""The audits of real data as recipes, on small files of the same form made on the spot."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.data.load import read_pairs
from rewardlab.data.rows import Fields
from rewardlab.data.settings import DataSettings
from rewardlab.pipeline.annotations import is_held_out
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.pipeline.stages.system_audit import _annotated
from rewardlab.reporting.result_tables import markdown_tables

SYSTEMS = {"plain": 0.35, "padded": 0.35, "good": 0.7}
WORDS = ("time", "cost", "tools", "steps", "oven", "flour", "water", "salt")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def answer(rng: np.random.Generator, good: bool, words: int) -> str:
    text = " ".join(rng.choice(WORDS, words))
    return f"{text} indeed" if good else text


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The judge likes answers that end on "indeed", and long ones; `padded` is `plain` with more words."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows, free = [], []
    for i in range(80):
        baseline = answer(rng, i % 2 == 0, 20)
        for system, skill in SYSTEMS.items():
            good = bool(rng.random() < skill)
            words = int(rng.integers(12, 28)) + 20 * (system == "padded")
            text = answer(rng, good, words)
            z = 2.5 * (good - (i % 2 == 0)) + 2.5 * np.tanh((words - 20) / 10) - 0.7
            p = 1 / (1 + np.exp(-z))
            pair = {"prompt": f"Question {i}?", "output_1": baseline, "output_2": text}
            rows.append({**pair, "instruction_id": i, "generator_2": system, "preference": 1 + float(p)})
        free += [
            {"instruction_id": i, "model": m, "output": answer(rng, m == "fine", 20)}
            for m in ("fine", "poor")
        ]
    write(folder / "pairs.jsonl.gz", rows)
    write(folder / "free.jsonl.gz", free)
    lines = [
        "model,win_rate,length_controlled_winrate",
        "plain,30,30",
        "padded,60,30",
        "good,55,55",
        "fine,80,80",
        "poor,10,",
    ]
    (folder / "board.csv").write_text("\n".join(lines) + "\n")
    styles = [
        {
            "prompt": f"Q{i}",
            "chosen": [f"a {i}", f"a b {i}", f"a b c {i}"],
            "rejected": [f"d {i}", f"d e {i}", f"d e f {i}"],
        }
        for i in range(30)
    ]
    write(folder / "styles.jsonl.gz", styles)
    ties = []
    for i in range(60):
        label = ("a", "b", "tie")[i % 3]
        a, b = {"a": (9, 3), "b": (3, 9), "tie": (5, 5)}[label]
        ties.append(
            {
                "prompt": f"Q{i}",
                "response_a": "w " * a,
                "response_b": "v " * b,
                "label": label,
                "annotators": [label, label, "a"],
            }
        )
        score = {"score_a": float(a), "score_b": float(b), "decision": "A>B" if a > b else "B>A"}
        ties[-1]["judges"] = {"wordy": score}
    write(folder / "ties.jsonl.gz", ties)
    verdicts = [
        {
            "pair_id": str(i),
            "judge": j,
            "strategy": "s",
            "label": 1 + i % 2,
            "winner": "1" if j == "first" else str(1 + i % 2),
            "winner_swapped": "2" if j == "first" else str(1 + i % 2),
        }
        for i in range(40)
        for j in ("first", "right")
    ]
    write(folder / "verdicts.jsonl.gz", verdicts)
    return folder


def run(tmp_path: Path, data: Path, stages: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    recipe = {"name": "audit", "model": "embedded:advice-base", "data_root": str(data), "stages": stages}
    summary = run_recipe(load_settings(Recipe, recipe).value, tmp_path / "run")
    return summary, (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def found(summary: dict[str, Any], title: str) -> list[dict[str, Any]]:
    (rows,) = [t["rows"] for t in summary["tables"] if t["title"].startswith(title)]
    return rows


def test_win_rates_head_and_ranking(tmp_path: Path, data: Path) -> None:
    split = {"heldout_fraction": 0.4}
    head = {"data": {"source": "pairs.jsonl.gz", **split}, "features": {"source": "ngrams", "dimensions": 64}}
    board = {"source": "board.csv"}
    stages: list[dict[str, Any]] = [
        {
            "kind": "win_rates",
            "data": "pairs.jsonl.gz",
            "leaderboard": board,
            "variants": [["plain", "padded"]],
            "resamples": 100,
        },
        {
            "kind": "frozen_head",
            "name": "head",
            **head,
            "train_systems": ["plain", "padded"],
            "test_systems": ["good"],
        },
        {
            "kind": "system_audit",
            "rewards": ["length", "head"],
            "data": {"source": "pairs.jsonl.gz", **split, "split": "heldout"},
            "more": {"source": "free.jsonl.gz"},
            "leaderboard": board,
        },
    ]
    summary, page = run(tmp_path, data, stages)
    rates = {row["system"]: row for row in found(summary, "Win rates")}
    assert rates["padded"]["raw"]["estimate"] > rates["plain"]["raw"]["estimate"] + 15
    assert rates["padded"]["lc"]["estimate"] < rates["padded"]["raw"]["estimate"] - 5
    assert rates["good"]["official_lc"] == 55
    spread = {row["rate"]: row["spread"] for row in found(summary, "What a length instruction buys")}
    assert spread["length-controlled"] < spread["raw"]
    parts = [row["part"] for row in found(summary, "Frozen head")]
    assert parts[-1] == "held-out prompts, other systems"
    agreement = {row["reward"]: row for row in found(summary, "Agreement with the judge (")}
    assert agreement["length"]["accuracy_balanced"]["estimate"] == pytest.approx(0.5, abs=0.05)
    assert agreement["head"]["beyond_length"]["low"] > 0
    assert {row["system"] for row in found(summary, "Share of answers")} == {*SYSTEMS, "fine", "poor"}
    assert [s["name"] for s in summary["stages"]] == ["win_rates", "head", "system_audit"]
    assert page.count("<h3>") >= len(summary["tables"])
    estimate = f"{rates['good']['raw']['estimate']:.0f}"
    assert re.search(rf">{estimate}(\.\d)? ?<small>\[", page)
    text = markdown_tables(summary)
    assert all(f"### {t['title']}" in text for t in summary["tables"])
    told = next(
        t["finding"] for t in summary["tables"] if t["title"].startswith("Agreement with the judge (")
    )
    assert told.startswith("With the effect of length balanced out")
    assert told in text
    assert told.split(";")[0] in page.split("</header>")[0]
    again = run_recipe(
        load_settings(
            Recipe,
            {"name": "audit", "model": "embedded:advice-base", "data_root": str(data), "stages": stages},
        ).value,
        tmp_path / "run",
    )
    assert json.loads(json.dumps(again["tables"])) == json.loads(json.dumps(summary["tables"]))


def test_judges_and_benchmarks(tmp_path: Path, data: Path) -> None:
    def benchmark(form: str, file: str, **more: Any) -> dict[str, Any]:
        return {"kind": "benchmark_audit", "name": form, "form": form, "data": file, **more}

    stages = [
        {"kind": "judge_audit", "data": "verdicts.jsonl.gz"},
        benchmark("stored_scores", "ties.jsonl.gz"),
        benchmark("ties", "ties.jsonl.gz", rewards=["length"]),
        benchmark("annotators", "ties.jsonl.gz"),
        benchmark("style_matrix", "styles.jsonl.gz", rewards=["length"]),
        benchmark("pairs", "pairs.jsonl.gz", rewards=["length"]),
    ]
    summary, _ = run(tmp_path, data, stages)
    cards = {row["judge"]: row for row in found(summary, "Judges and position")}
    assert cards["first"]["first_position"]["estimate"] == 1
    assert cards["first"]["position_p"] < 1e-6
    assert cards["right"]["first_position"]["estimate"] == 0.5
    assert cards["right"]["accuracy_consistent"]["estimate"] == 1
    (stored,) = found(summary, "Scores that the data stores")
    assert (stored["percent"], stored["stored"], stored["n"]) == ("100.00", "100.00", 40)
    (tie,) = found(summary, "Comparisons with ties")
    assert tie["with_ties"]["estimate"] == 1
    assert tie["ties"] == 20
    (style,) = found(summary, "Accuracy by style")
    assert [style[k]["estimate"] for k in ("easy", "normal", "hard")] == [1, 0.5, 0]
    kappa = next(r for r in found(summary, "Annotators") if r["measure"] == "Fleiss' kappa")
    assert 0 < kappa["value"]["estimate"] < 1


def test_held_out_prompts_are_those_that_training_stages_set_aside(tmp_path: Path) -> None:
    prompts = [f"Question {i}?" for i in range(40)] + [
        "\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: And?\n\nAssistant:"
    ]
    pair = {"output_1": "yes", "output_2": "no", "preference": 1.2, "generator_2": "s"}
    write(
        tmp_path / "x.jsonl.gz", [{**pair, "prompt": p, "instruction_id": i} for i, p in enumerate(prompts)]
    )
    loaded = read_pairs(DataSettings(source=str(tmp_path / "x.jsonl.gz"), heldout_fraction=0.4))
    assert 8 < len(loaded.held_out) < 26
    assert all(is_held_out(p.prompt, 0.4, 0) for p in loaded.held_out)
    assert not any(is_held_out(p.prompt, 0.4, 0) for p in loaded.rows)
    (transcript,) = (p.prompt for p in (*loaded.rows, *loaded.held_out) if len(p.prompt) == 3)
    assert (
        _annotated(Fields({**pair, "prompt": prompts[-1], "instruction_id": 0}, {}), "").prompt == transcript
    )


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"kind": "win_rates", "data": "verdicts.jsonl.gz"}, "generator_2"),
        ({"kind": "win_rates", "data": "pairs.jsonl.gz", "leaderboard": {"source": "no.csv"}}, "no.csv"),
        (
            {
                "kind": "win_rates",
                "data": "pairs.jsonl.gz",
                "leaderboard": {"source": "board.csv", "raw": "x"},
            },
            "'x'",
        ),
        (
            {"kind": "system_audit", "rewards": ["length"], "data": "pairs.jsonl.gz", "systems": ["who"]},
            "who",
        ),
        ({"kind": "frozen_head", "data": "pairs.jsonl.gz", "train_systems": ["who"]}, "train_systems"),
        ({"kind": "benchmark_audit", "form": "ties", "data": "ties.jsonl.gz"}, "rewards"),
        ({"kind": "judge_audit", "data": "ties.jsonl.gz"}, "pair_id"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, data: Path, stage: dict[str, Any], message: str) -> None:
    if stage["kind"] == "frozen_head":
        stage = {**stage, "features": {"source": "ngrams"}}
    with pytest.raises(UserError, match=message):
        run(tmp_path, data, [stage])
