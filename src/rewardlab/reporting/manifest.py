"""The manifest as readable tables, whatever it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MOST_COLUMNS = 7


@dataclass(frozen=True)
class Grid:
    """A group of entries: with columns if its items are alike, else as path and value."""

    title: str
    header: list[str]
    """Empty for a table of path and value."""
    rows: list[list[str]]


def manifest_grids(manifest: dict[str, Any]) -> list[Grid]:
    """Top-level values first as one group, then a group for each nested value, in the order stored."""
    plain = [[_words(k), _text(v)] for k, v in manifest.items() if not _nested(v)]
    grids = [Grid("run", [], plain)] if plain else []
    return grids + [_grid(_words(k), v) for k, v in manifest.items() if _nested(v)]


def _grid(title: str, value: Any) -> Grid:
    items = list(value.items()) if isinstance(value, dict) else [(str(i + 1), v) for i, v in enumerate(value)]
    alike = [v for _, v in items if isinstance(v, dict) and v and not any(_nested(x) for x in v.values())]
    columns = list(dict.fromkeys(key for v in alike for key in v))
    if len(alike) == len(items) > 0 and len(columns) <= MOST_COLUMNS:
        rows = [[str(name), *(_text(v[c]) if c in v else "–" for c in columns)] for name, v in items]
        return Grid(title, ["", *(_words(c) for c in columns)], rows)
    return Grid(title, [], _flat("", value))


def _flat(path: str, value: Any) -> list[list[str]]:
    if not _nested(value):
        return [[path, _text(value)]]
    items = value.items() if isinstance(value, dict) else enumerate(value, start=1)
    start = f"{path} › " if path else ""
    return [row for key, inner in items for row in _flat(f"{start}{_words(key)}", inner)]


def _nested(value: Any) -> bool:
    """A non-empty dict, or a list that holds dicts or lists."""
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, list) and any(isinstance(v, dict | list) for v in value)


def _words(key: object) -> str:
    return str(key).replace("_", " ")


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(v) for v in value) or "–"
    return str(value)
