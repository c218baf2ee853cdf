"""One page from several seeds of a recipe: python benchmarks/seeds.py RUN... > docs/quickstart.md

The unit of inference is the seed: means and t intervals are over runs, differences are paired within a run.
Every number comes from the runs' summary.json, whose hashes are printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rewardlab.core.statistics import Interval, t_interval
from rewardlab.records.atomic import sha256

METRICS = {"gold": "gold", "proxy": "proxy", "length": "length (tokens)", "kl": "KL from SFT (nats)"}
CARD = {
    "bayes_accuracy": "Bayes ceiling",
    "accuracy": "accuracy",
    "accuracy_gold": "agreement with gold",
    "length_baseline_accuracy": 'accuracy of "longer is better"',
    "ece": "ECE",
    "length_slope": "length slope (SD per unit of log length)",
}


def cell(interval: Interval) -> str:
    """estimate [low, high] over seeds."""
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def single(value: dict[str, Any]) -> str:
    """One run's own interval, over prompts or pairs."""
    return f"{value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def over_seeds(values: list[float]) -> str:
    """t interval over runs."""
    return cell(t_interval(np.array(values)))


def page(folders: list[Path]) -> str:
    """The whole page."""
    runs = [json.loads((f / "summary.json").read_text()) for f in folders]
    first = runs[0]
    baseline = first["baseline"]
    others = [p for p in first["policies"] if p != baseline]
    lines = [
        f"# {first['name']}: {len(runs)} seeds",
        "",
        first["question"],
        "",
        f"Seeds {', '.join(str(r['seed']) for r in runs)}. Intervals (95%, t) are over seeds; so few "
        "give wide ones; below are the single runs with intervals over prompts. Made by "
        "`python benchmarks/seeds.py`.",
        "",
        "| policy | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for policy in first["policies"]:
        cells = [over_seeds([r["policies"][policy][m]["estimate"] for r in runs]) for m in METRICS]
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    lines += ["", f"Paired differences from {baseline}, single runs (over prompts):", ""]
    lines += ["| policy | seed | gold | proxy |", "|---|---|---|---|"]
    for policy in others:
        for run in runs:
            found = {c["metric"]: c for c in run["comparisons"] if c["policy"] == policy}
            lines.append(f"| {policy} | {run['seed']} | {single(found['gold'])} | {single(found['proxy'])} |")
    lines += ["", "Reward model on held-out topics:", "", "| | over seeds |", "|---|---|"]
    for key, label in CARD.items():
        lines.append(f"| {label} | {over_seeds([r['reward_model'][key]['estimate'] for r in runs])} |")
    lines += [
        "",
        "Sources: "
        + "; ".join(
            f"seed {r['seed']} summary.json sha256 `{sha256(f / 'summary.json')[:16]}`"
            for r, f in zip(runs, folders)
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page([Path(a) for a in sys.argv[1:]]))
