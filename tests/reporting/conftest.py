"""Run folders small enough to read, with numbers that are easy to find again in a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def interval(estimate: float, low: float, high: float, n: int = 64) -> dict[str, Any]:
    return {"estimate": estimate, "low": low, "high": high, "n": n}


def comparison(
    policy: str, metric: str, estimate: float, low: float, high: float, **more: Any
) -> dict[str, Any]:
    p = {"p": 0.0001, "p_holm": 0.0004}
    return {
        "policy": policy,
        "baseline": "sft",
        "metric": metric,
        **interval(estimate, low, high),
        **p,
        **more,
    }


def answer(policy: str, text: str, stop: str = "stop") -> dict[str, Any]:
    rewards = {
        "gold": {"value": None, "status": "abstain", "parts": {}, "reason": "no verdict"},
        "proxy": {"value": 0.625, "status": "ok", "parts": {"clarity": 0.125}},
    }
    return {"policy": policy, "text": text, "stop": stop, "rewards": rewards}


@pytest.fixture
def summary() -> dict[str, Any]:
    """A full job: two policies, a reward model and samples."""
    return {
        "name": "length-world",
        "question": "Does gold follow the proxy?",
        "seed": 3,
        "baseline": "sft",
        "judge": "gold",
        "policies": {
            "sft": {
                "gold": interval(0.21, 0.14, 0.28),
                "proxy": interval(0.05, -0.02, 0.12),
                "length": interval(38.2, 36.1, 40.4),
            },
            "dpo": {
                "gold": interval(0.19, 0.12, 0.26),
                "proxy": interval(0.46, 0.38, 0.54),
                "length": interval(45.3, 43.2, 47.5),
                "win_rate_vs_sft": interval(0.61, 0.55, 0.67),
                "politeness": interval(0.71, 0.65, 0.77),
            },
        },
        "comparisons": [
            comparison("dpo", "proxy", 0.41, 0.33, 0.49),
            comparison("dpo", "gold", -0.02, -0.08, 0.04, p=0.52, p_holm=0.97),
        ],
        "reward_model": {
            "accuracy": interval(0.712, 0.691, 0.732, 2000),
            "bayes_accuracy": interval(0.804, 0.786, 0.822, 2000),
            "length_baseline_accuracy": interval(0.617, 0.595, 0.639, 2000),
            "ece": interval(0.041, 0.03, 0.053, 2000),
            "padding_probe": [
                {
                    "sentences": 1,
                    **interval(0.11, 0.07, 0.15, 500),
                    "flip_rate": interval(0.08, 0.05, 0.12, 500),
                }
            ],
            "curves": {
                "reliability": [{"predicted": 0.55, "observed": 0.53, "low": 0.47, "high": 0.59, "n": 200}],
                "margin_deciles": [{"margin": 1.5, "accuracy": 0.88, "low": 0.83, "high": 0.92, "n": 200}],
            },
            "counts": {"heldout_pairs": 2000},
            "verdicts": [{"check": "padding", "verdict": "fail", "text": "Padding pays."}],
        },
        "samples": [
            {
                "prompt": "Why do rivers bend?",
                "answers": [answer("sft", "Because."), answer("dpo", "So.", "length")],
            },
            {
                "prompt": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "And lakes?"},
                ],
                "answers": [answer("sft", "Lakes do not.")],
            },
        ],
        "stages": [
            {"name": "sft", "kind": "sft", "seconds": 12.5, "steps": 4, "final": {"loss": 1.31}},
            {"name": "grpo", "kind": "grpo", "seconds": 99.0, "steps": 4, "final": {"reward": 0.9}},
        ],
        "warnings": ["29% of answers were cut."],
    }


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder; metrics are rows, or text to be written as it is."""

    def write(summary: dict[str, Any], metrics: dict[str, Any] | None = None, **files: str) -> Path:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        for stage, rows in (metrics or {}).items():
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "stages" / stage).mkdir(parents=True, exist_ok=True)
            (folder / "stages" / stage / "metrics.jsonl").write_text(text)
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)
        return folder

    return write
