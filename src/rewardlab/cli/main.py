"""The command line: thin verbs over the pipeline. Bad input exits with code 2 and one clear message."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rewardlab.core.errors import UserError

app = typer.Typer(
    help="Know your reward before you train on it. Then train on it, at any scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
err = Console(stderr=True)

Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and no progress.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the run folders.")]
Peek = Annotated[int, typer.Option(help="Show this many rendered rows and rollouts of each stage.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete what an earlier run of this name left.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Print the resolved recipe with origins; run nothing.")
]

Plan = Annotated[
    bool, typer.Option("--plan", help="Print the memory that each training stage needs; run nothing.")
]


def _run(
    source: Path | dict[str, Any],
    overrides: list[str],
    runs: Path,
    *,
    fresh: bool,
    as_json: bool,
    peek: int = 0,
    explain: bool = False,
    plan: bool = False,
) -> None:
    """Resolve a recipe, run it, and print what came out."""
    from transformers.utils import logging as transformers_logging

    from rewardlab.cli.progress import RichProgress
    from rewardlab.core.recipes import explain as explained
    from rewardlab.core.recipes import load_settings
    from rewardlab.pipeline.recipe import Recipe
    from rewardlab.pipeline.run import run_recipe
    from rewardlab.records.atomic import disk_errors

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    out = Console()
    resolved = load_settings(Recipe, source, overrides)
    recipe = resolved.value
    if explain:
        if as_json:
            print(json.dumps(recipe.model_dump(mode="json")))
        else:
            out.print(explained(resolved))
        return
    if plan:
        from rewardlab.pipeline.plan import device_room, plan_table, stage_plans

        limit = device_room()
        plans = stage_plans(recipe, limit)
        if as_json:
            print(json.dumps({"limit": limit, "stages": [asdict(p) for p in plans]}))
        else:
            out.print(plan_table(recipe, plans, limit))
        return
    folder = runs / recipe.name
    progress = RichProgress(quiet=as_json, console=err)
    shown = 0 if as_json else peek
    with disk_errors(folder):
        summary = run_recipe(recipe, folder, fresh=fresh, progress=progress, peek=shown, show=err.print)
    if as_json:
        print(json.dumps({**summary, "folder": str(folder)}))
        return
    _show(summary, folder)


def _show(summary: dict[str, Any], folder: Path) -> None:
    """The numbers, the warnings, and where the pages are."""
    from rewardlab.reporting.terminal import summary_table

    out = Console()
    out.print(summary_table(summary))
    for warning in summary.get("warnings") or []:
        out.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    for page in summary.get("pages") or []:
        out.print(Text(f"{page['title']}: {folder / page['file']}"), soft_wrap=True)
    out.print(Text(f"report: {folder / 'report.html'}"), soft_wrap=True)


@app.command()
def quickstart(
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    runs: Runs = Path("runs"),
    fresh: Fresh = False,
    peek: Peek = 0,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """The whole job offline: SFT, reward model, its audit, DPO, GRPO, evaluation by gold, report."""
    name = "quickstart" if seed == 0 else f"quickstart-seed{seed}"
    with resources.as_file(resources.files("rewardlab.pipeline") / "quickstart.yaml") as recipe:
        changes = [f"seed={seed}", f"name={name}", *(overrides or [])]
        _run(recipe, changes, runs, fresh=fresh, peek=peek, explain=explain, as_json=as_json)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    fresh: Fresh = False,
    peek: Peek = 0,
    explain: Explain = False,
    plan: Plan = False,
    as_json: Json = False,
) -> None:
    """Run a recipe, or continue it where it was cut off."""
    _run(recipe, overrides or [], runs, fresh=fresh, peek=peek, explain=explain, plan=plan, as_json=as_json)


@app.command()
def audit(
    reward: Annotated[
        str,
        typer.Argument(
            help="Reward model folder, a built-in (gold, length), or a reward or judge: file.yaml:name."
        ),
    ],
    pairs: Annotated[str, typer.Argument(help="Preference pairs: a file, a hf: id, or `world`.")],
    overrides: Overrides = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Another reward or judge, side by side; may be repeated.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Sample this policy for the best-of-n curve.")] = None,
    name: Annotated[str, typer.Option(help="Name of the run folder.")] = "audit",
    runs: Runs = Path("runs"),
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Report card of a reward or judge: accuracy, calibration, bias, invariance, exploitability; advice."""
    from rewardlab.rewards.catalog import from_file

    book = from_file(reward)
    name_of = reward if book is None else book[1]
    data = {"source": pairs, "split": "heldout"}
    stage = {"kind": "audit", "reward": name_of, "against": against or [], "policy": policy, "data": data}
    recipe: dict[str, Any] = {
        "name": name,
        "question": f"Can {reward} be trusted?",
        "model": policy or reward,
        "stages": [stage],
        **({} if book is None else book[0].model_dump(mode="json")),
    }
    if pairs == "world":
        recipe["world"] = {}
    _run(recipe, overrides or [], runs, fresh=fresh, as_json=as_json)


@app.command()
def evaluate(
    policies: Annotated[
        list[str], typer.Argument(help="Policies: model folders or ids; the first is the baseline.")
    ],
    prompts: Annotated[str, typer.Option(help="Prompts: a file, a hf: id, or `world`.")] = "world",
    reward: Annotated[
        list[str] | None,
        typer.Option(help="A reward model folder or a built-in reward."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers per prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 128,
    name: Annotated[str, typer.Option(help="Name of the run folder.")] = "evaluate",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    runs: Runs = Path("runs"),
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Policies side by side on the same prompts, with paired intervals."""
    from rewardlab.pipeline.stages.evaluate import named

    models = named(policies)
    first = next(iter(models))
    others = [r for r in reward or () if r != "gold"]
    rewards = {"gold": "gold"} if not reward or "gold" in reward else {}
    rewards |= {"proxy" if i == 0 else Path(r).name: r for i, r in enumerate(others)}
    stage = {
        "kind": "evaluate",
        "policies": models,
        "baseline": first,
        "reference": first,
        "rewards": rewards,
        "judge": next(iter(rewards)),
        "data": {"source": prompts, "split": "heldout", "rows": 200},
        "samples_per_prompt": samples,
        "max_new_tokens": max_new_tokens,
    }
    recipe: dict[str, Any] = {
        "name": name,
        "question": "Which policy is better?",
        "seed": seed,
        "model": policies[0],
        "stages": [stage],
    }
    if prompts == "world":
        recipe["world"] = {}
    _run(recipe, [], runs, fresh=fresh, as_json=as_json)


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Print a run's results again and rebuild its report."""
    from rewardlab.reporting.report import build_report

    file = folder / "summary.json"
    if not file.is_file():
        raise UserError(f"{folder} has no summary.json.", "Give a run folder of a finished run.")
    summary = json.loads(file.read_text())
    build_report(folder)
    if as_json:
        print(json.dumps(summary))
    else:
        _show(summary, folder)


@app.command()
def serve(
    reward: Annotated[
        str, typer.Argument(help="Reward model folder, a built-in reward, or file.yaml:name with `rewards:`.")
    ],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Serve a reward over HTTP: plain JSON, OpenRLHF's remote reward, OpenAI-style scoring."""
    from rewardlab.core.recipes import load_settings
    from rewardlab.serving.serve import find_reward
    from rewardlab.serving.serve import serve as serve_reward
    from rewardlab.serving.settings import ServerSettings

    settings = load_settings(ServerSettings, {}, overrides or []).value
    found = find_reward(reward)
    facts = {"reward": found.name, "host": settings.host, "port": settings.port}

    def announce() -> None:
        if as_json:
            print(json.dumps(facts), flush=True)
        else:
            err.print(f"serving {reward} at http://{settings.host}:{settings.port} (Ctrl-C stops it)")

    serve_reward(found, settings, os.environ.get("REWARDLAB_TOKEN"), announce)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, which optional engines are usable, and what to install."""
    from rewardlab.cli.doctor import diagnose, render

    checks = diagnose()
    if as_json:
        print(json.dumps([vars(c) for c in checks]))
    else:
        Console().print(render(checks))
    raise typer.Exit(0 if all(c.ok or c.optional for c in checks) else 1)


def main() -> None:
    """Entry point: a `UserError` becomes one message and exit code 2."""
    try:
        app()
    except UserError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": error.problem, "way_out": error.way_out}))
        else:
            err.print(f"[bold red]error:[/] {error.problem}", soft_wrap=True)
            if error.way_out:
                err.print(f"       {error.way_out}", soft_wrap=True)
        sys.exit(2)
