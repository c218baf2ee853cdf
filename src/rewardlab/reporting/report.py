"""`report.html`: one self-contained file that tells what a run found and lets the reader dig.

It computes nothing: numbers come from `summary.json` and the stages' metrics, whose hashes it prints. It
loads nothing: a content security policy forbids every request, and lets no script run but the page's own.
The same run folder gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rewardlab.reporting.curves import StageCurves, stage_curves, stage_table
from rewardlab.reporting.folder import RunFolder, read_run_folder
from rewardlab.reporting.glossary import entries, policy_label
from rewardlab.reporting.intervals import finite
from rewardlab.reporting.manifest import manifest_grids
from rewardlab.reporting.result_tables import result_tables
from rewardlab.reporting.reward_card import reward_card
from rewardlab.reporting.samples import shown_samples
from rewardlab.reporting.tables import difference_panels, policy_intervals, policy_panels, policy_table
from rewardlab.reporting.verdict import verdict

HERE = Path(__file__).parent


def build_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Missing parts are left out or said to be not measured; UserError if there is no readable `summary.json`.
    """
    run = read_run_folder(run_folder)
    page = render(run)
    target = run_folder / "report.html"
    unfinished = target.with_suffix(".html.part")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, target)
    return target


def render(run: RunFolder) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        css=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        **_content(run),
    )


def _content(run: RunFolder) -> dict[str, Any]:
    summary = run.summary
    stages = [s for s in summary.get("stages") or [] if isinstance(s, dict)]
    names = [str(s.get("name", "?")) for s in stages]
    ordered = [n for n in names if n in run.metrics] + [n for n in run.metrics if n not in names]
    curves = [stage_curves(name, run.metrics[name]) for name in ordered]
    columns, rows = policy_table(summary)
    samples, all_samples = shown_samples(summary.get("samples") or [])
    card = summary.get("reward_model")
    parts = {
        "policies": rows,
        "paired differences": summary.get("comparisons"),
        "learning curves": curves,
        "a reward model": card,
        "samples": samples,
    }
    return {
        "absent": [name for name, found in parts.items() if not found],
        "title": str(summary.get("name") or "run"),
        "question": str(summary.get("question") or ""),
        "facts": _facts(summary),
        "verdict": verdict(summary),
        "caveats": _caveats(summary),
        "warnings": [str(w) for w in summary.get("warnings") or []],
        "notes": run.notes,
        "columns": columns,
        "rows": rows,
        "panels": policy_panels(summary),
        "differences": difference_panels(summary),
        "stages": stage_table(stages),
        "no_metrics": [n for n in names if n not in run.metrics],
        "curves": curves,
        "card": reward_card(card) if card else None,
        "pages": summary.get("pages") or [],
        "tables": result_tables(summary),
        "samples": samples,
        "all_samples": all_samples,
        "recipe": run.recipe,
        "manifest": None if run.manifest is None else manifest_grids(run.manifest),
        "sources": run.sources,
        "glossary": entries(_metric_names(summary, run, curves)),
    }


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if summary.get("baseline") and summary.get("policies"):
        facts.append(("baseline", policy_label(str(summary["baseline"]))))
    if summary.get("judge"):
        facts.append(("wins judged by", str(summary["judge"])))
    if summary.get("seed") is not None:
        facts.append(("seed", str(summary["seed"])))
    return facts


def _caveats(summary: dict[str, Any]) -> list[str]:
    """What a careful reader must know before believing the numbers."""
    caveats = []
    level = finite(summary.get("level"))
    if summary.get("policies") or summary.get("reward_model"):
        kind = f"{100 * level:g}% intervals" if level is not None else "the intervals stored by the run"
        caveats.append(f"Brackets are {kind}; a change is called one only if its interval excludes zero.")
    if summary.get("policies") and "gold" not in policy_intervals(summary):
        caveats.append("Gold was not measured, so nothing here can tell a better policy from a fooled proxy.")
    if summary.get("judge") == "proxy":
        caveats.append("Wins are judged by the proxy, the reward that training saw.")
    if isinstance(summary.get("seed"), int) and summary.get("policies"):
        caveats.append(
            "One training seed: intervals say how well this run was measured, not how another seed would end."
        )
    return caveats


def _metric_names(summary: dict[str, Any], run: RunFolder, curves: list[StageCurves]) -> set[str]:
    names = set(policy_intervals(summary)) | set(summary.get("reward_model") or {})
    names |= {str(c.get("metric")) for c in summary.get("comparisons") or []}
    names |= {key for rows in run.metrics.values() for row in rows for key in row}
    if any(c.reward for c in curves):
        names |= {"proxy", "gold"}
    if "padding_probe" in names:
        names.add("flip_rate")
    return names
