"""Run a recipe: stage after stage into one run folder, then the summary and the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.recipes import dump_yaml
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import Recipe
from rewardlab.records.run import Run
from rewardlab.reporting.report import build_report

STAGE_FACTS = ("seconds", "steps", "final")
"""What the summary keeps of every stage; the rest of an outcome goes to its top level."""
GATHERED = ("warnings", "tables", "pages")
"""Lists that all stages add to, without what is in them already."""


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    fresh: bool = False,
    progress: Progress = NO_PROGRESS,
    peek: int = 0,
    show: Callable[[object], None] = print,
) -> dict[str, Any]:
    """Run all stages that are not done yet; returns what summary.json holds.

    On an existing folder of the same recipe it continues where it was cut off, bit for bit.
    """
    run = Run.open(folder, dump_yaml(recipe), fresh=fresh, seed=recipe.seed)
    context = Context(recipe, run, progress, peek, show)
    summary: dict[str, Any] = {"name": recipe.name, "question": recipe.question, "seed": recipe.seed}
    stages = []
    for stage in recipe.stages:
        record = run.stage(stage.name)
        outcome = record.done()
        if outcome is None:
            started = time.perf_counter()
            outcome = {"seconds": 0.0, **stage.run(context)}
            outcome["seconds"] = outcome["seconds"] or time.perf_counter() - started
            outcome["warnings"] = context.take_warnings()
            record.finish(outcome)
        stages.append({"name": stage.name, **{k: outcome[k] for k in STAGE_FACTS if k in outcome}})
        stages[-1]["kind"] = stage.model_dump()["kind"]
        summary |= {k: v for k, v in outcome.items() if k not in (*STAGE_FACTS, *GATHERED)}
        for key in GATHERED:
            if key in outcome:
                kept = summary.setdefault(key, [])
                kept += [item for item in outcome[key] if item not in kept]
    summary["stages"] = stages
    run.write_summary(summary)
    build_report(folder)
    return summary
