"""Run a recipe: stage after stage into one run folder, then the summary and the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.recipes import dump_yaml
from rewardlab.pipeline import measuring, training
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import (
    AuditStage,
    DPOStage,
    EvaluateStage,
    GRPOStage,
    Recipe,
    RewardStage,
    ScratchStage,
    SFTStage,
    Stage,
)
from rewardlab.records.run import Run
from rewardlab.reporting.report import build_report

RUNNERS: dict[type[Stage], Callable[[Context, Any], dict[str, Any]]] = {
    ScratchStage: training.run_scratch,
    SFTStage: training.run_sft,
    RewardStage: training.run_reward,
    DPOStage: training.run_dpo,
    GRPOStage: training.run_grpo,
    AuditStage: measuring.run_audit,
    EvaluateStage: measuring.run_evaluate,
}


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
            outcome = {"seconds": 0.0, **RUNNERS[type(stage)](context, stage)}
            outcome["seconds"] = outcome["seconds"] or time.perf_counter() - started
            outcome["warnings"] = context.take_warnings()
            record.finish(outcome)
        stages.append({"name": stage.name, **{k: outcome[k] for k in STAGE_FACTS if k in outcome}})
        stages[-1]["kind"] = stage.model_dump()["kind"]
        summary |= {k: v for k, v in outcome.items() if k not in (*STAGE_FACTS, "warnings")}
        summary.setdefault("warnings", []).extend(outcome["warnings"])
    summary["stages"] = stages
    run.write_summary(summary)
    build_report(folder)
    return summary


STAGE_FACTS = ("seconds", "steps", "final")
