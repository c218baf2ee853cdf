"""The same summary for a terminal of 80 to 100 columns."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rewardlab.reporting.glossary import metric
from rewardlab.reporting.intervals import finite, read_interval, show_bounds, show_interval, show_number
from rewardlab.reporting.result_tables import findings, terminal_tables
from rewardlab.reporting.reward_card import ACCURACIES, OTHERS, SYMBOLS
from rewardlab.reporting.tables import policy_table

SHORT = {"win rate vs SFT": "win vs SFT", "KL from reference": "KL (nats)", "length": "length (tok)"}
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def summary_table(summary: dict[str, Any]) -> RenderableType:
    """The policies' headline numbers and the reward model's card; each part only if it was measured.

    Intervals stand below their estimates, so that five metrics fit into 80 columns.
    """
    policies = [_policies(summary)] if summary.get("policies") else []
    card = _reward_model(summary["reward_model"]) if summary.get("reward_model") else []
    between = [Text("")] if policies and card else []
    found = [Text(f"{text}\n") for text in findings(summary)]
    shown = [*policies, *between, *card, *terminal_tables(summary), *found]
    return Group(*shown) if shown else Text("Nothing was measured.")


def _table(title: str) -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, padding=0, title=title, title_justify="left")


def _policies(summary: dict[str, Any]) -> Table:
    columns, rows = policy_table(summary)
    table = _table("policies")
    table.add_column("")
    shown = [i for i, c in enumerate(columns) if c.label != "entropy"]
    for i in shown:
        label = columns[i].label.removesuffix(" reward")
        table.add_column(Text(SHORT.get(label, label)), justify="right")
    for label, is_baseline, cells in rows:
        name = Text(label, style="bold")
        if is_baseline:
            name.append("\nbaseline", style="dim not bold")
        texts = [
            Text(cells[i].estimate).append(f"\n{cells[i].bounds}" if cells[i].bounds else "", style="dim")
            for i in shown
        ]
        table.add_row(name, *texts)
    return table


def _reward_model(card: dict[str, Any]) -> list[RenderableType]:
    table = _table("reward model")
    table.add_column("")
    table.add_column("estimate", justify="right")
    table.add_column("interval", justify="right")
    table.add_column("unit", style="dim")
    for key in (*ACCURACIES, *OTHERS):
        interval = read_interval(card.get(key))
        if interval is not None:
            estimate = show_interval(interval).split(" ")[0]
            table.add_row(metric(key).label, estimate, Text(show_bounds(interval)), metric(key).unit)
    for row in card.get("padding_probe") or []:
        interval = read_interval(row)
        if interval is not None:
            label = f"padding, sentences: {show_number(finite(row.get('sentences')), 0)}"
            estimate = show_interval(interval, signed=True).split(" ")[0]
            table.add_row(label, estimate, Text(show_bounds(interval)), metric("padding_probe").unit)
    checks = Text()
    for row in card.get("verdicts") or []:
        verdict = str(row.get("verdict", "?"))
        checks.append(f"{SYMBOLS.get(verdict, '?')} {verdict:<5}", style=COLOURS.get(verdict, ""))
        checks.append(f"{row.get('text', '')}\n")
    return [table, checks] if checks else [table]
