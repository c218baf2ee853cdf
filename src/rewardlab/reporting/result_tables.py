"""Tables that a stage leaves in the summary under `tables`, for the page, the terminal and Markdown.

A table is {"stage", "title", "columns": [[key, heading], ...], "rows": [{key: cell}, ...], "notes": [...],
"finding": text or None}.
A cell is a text, a number, an interval {"estimate", "low", "high", "n"}, or None. Nothing is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rewardlab.reporting.intervals import digits_for, finite, read_interval, show_bounds, show_number

MOST_ROWS = 12
"""Rows of a table on a terminal; the page has all."""


@dataclass(frozen=True)
class TableCell:
    """What a cell shows, and the value that the column is sorted by."""

    text: str
    bounds: str = ""
    value: float | None = None


@dataclass(frozen=True)
class ResultTable:
    """A table as shown."""

    stage: str
    title: str
    headings: list[tuple[str, bool]]
    """Text of each heading, and whether its column holds numbers."""
    rows: list[list[TableCell]]
    notes: list[str]
    finding: str | None = None
    """What it shows, in one sentence."""


def findings(summary: dict[str, Any]) -> list[str]:
    """What the tables show, a sentence each."""
    return [str(t["finding"]) for t in summary.get("tables") or [] if t.get("finding")]


def result_tables(summary: dict[str, Any]) -> list[ResultTable]:
    """All stored tables; the digits of a column fit its narrowest interval."""
    return [_table(t) for t in summary.get("tables") or []]


def _table(stored: dict[str, Any]) -> ResultTable:
    rows: list[dict[str, Any]] = stored["rows"]
    headings, cells = [], []
    for key, heading in stored["columns"]:
        column = [row.get(key) for row in rows]
        intervals = [i for i in map(read_interval, column) if i is not None]
        bounded = [i for i in intervals if i.low is not None]
        whole = all(isinstance(v, int) for v in column if v is not None)
        digits = digits_for(bounded) if bounded else None
        headings.append((str(heading), bool(intervals)))
        cells.append([_cell(v, 0 if whole and intervals else digits) for v in column])
    shown = [list(row) for row in zip(*cells, strict=True)]
    return ResultTable(
        str(stored.get("stage", "")),
        str(stored["title"]),
        headings,
        shown,
        list(stored.get("notes") or []),
        stored.get("finding"),
    )


def _cell(value: Any, digits: int | None) -> TableCell:
    interval = read_interval(value)
    if interval is None:
        return TableCell("–" if value is None or isinstance(value, dict) else str(value))
    if digits is None:
        return TableCell(show_number(finite(interval.estimate)), "", interval.estimate)
    text = show_number(interval.estimate, digits)
    return TableCell(text, show_bounds(interval, digits), interval.estimate)


def terminal_tables(summary: dict[str, Any]) -> list[Table]:
    """The tables for a terminal."""
    made = []
    for found in result_tables(summary):
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=found.title)
        table.title_justify = "left"
        for heading, numeric in found.headings:
            table.add_column(heading, justify="right" if numeric else "left")
        for row in found.rows[:MOST_ROWS]:
            table.add_row(*(f"{cell.text} {cell.bounds}".strip() for cell in row))
        hidden = len(found.rows) - MOST_ROWS
        table.caption = "\n".join([f"{hidden} more rows in the report."] * (hidden > 0) + found.notes)
        table.caption_justify = "left"
        made.append(table)
    return made


def markdown_tables(summary: dict[str, Any], *, level: int = 3) -> str:
    """The tables as Markdown, one heading each."""
    lines: list[str] = []
    for table in result_tables(summary):
        lines += [f"{'#' * level} {table.title}", ""]
        if table.finding:
            lines += [table.finding, ""]
        lines.append("| " + " | ".join(h for h, _ in table.headings) + " |")
        lines.append("|" + "|".join("---:" if n else "---" for _, n in table.headings) + "|")
        for row in table.rows:
            lines.append("| " + " | ".join(f"{c.text} {c.bounds}".strip() for c in row) + " |")
        lines += ["", *(f"{note}\n" for note in table.notes)]
    return "\n".join(lines)
