"""Read a source into checked rows: bad rows named, duplicates removed, a held-out part set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Messages, Pair, Prompt, Steps
from rewardlab.data import rows as parse
from rewardlab.data.messages import BadRowError
from rewardlab.data.readers import Raw, files_of, hash_files, read_files, read_hub
from rewardlab.data.settings import DataSettings
from rewardlab.data.steps import to_steps

AnyRow = Example | Pair | Prompt | Steps
Columns = Mapping[str, str]
Row = TypeVar("Row", Example, Pair, Prompt, Steps)


@dataclass
class Loaded(Generic[Row]):
    """Rows of one source and what was found on the way; every row of the source is accounted for."""

    source: str
    rows: list[Row]
    held_out: list[Row] = field(default_factory=list)
    sha256: str = ""
    read: int = 0
    """Rows in the source up to the limit: rows + held_out + bad + duplicates."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Place and reason of each row that was left out."""
    duplicates: int = 0

    def facts(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "read": self.read,
            "rows": len(self.rows),
            "held_out": len(self.held_out),
            "duplicates": self.duplicates,
            "bad": len(self.bad),
            "bad_rows": [f"{place}: {reason}" for place, reason in self.bad[:20]],
        }


def read_examples(settings: DataSettings) -> Loaded[Example]:
    """Supervised rows."""
    return _read(settings, parse.to_example)


def read_pairs(settings: DataSettings) -> Loaded[Pair]:
    """Preference rows."""
    return _read(settings, parse.to_pair)


def read_prompts(settings: DataSettings) -> Loaded[Prompt]:
    """Prompts, with the rest of each row as meta."""
    return _read(settings, parse.to_prompt)


def read_steps(settings: DataSettings) -> Loaded[Steps]:
    """Answers in steps with their labels."""
    return _read(settings, to_steps)


def _read(settings: DataSettings, make: Callable[[Mapping[str, Any], str, Columns], Row]) -> Loaded[Row]:
    if settings.source.startswith("hf:"):
        found, digest = read_hub(settings.source)
        raws: Iterable[Raw] = found
    else:
        files = files_of(settings.source)
        raws, digest = read_files(files), hash_files(files)
    loaded: Loaded[Row] = Loaded(settings.source, [], sha256=digest)
    seen: set[str] = set()
    for place, raw in raws:
        if settings.limit is not None and loaded.read >= settings.limit:
            break
        loaded.read += 1
        try:
            if isinstance(raw, str):
                raise BadRowError(raw)
            row = make(raw, place, settings.columns)
        except BadRowError as problem:
            if settings.on_bad_row == "error":
                raise UserError(
                    f"{place}: {problem}.",
                    "Repair the row, map its columns, or set `on_bad_row: skip` to leave such rows out.",
                ) from problem
            loaded.bad.append((place, str(problem)))
            continue
        if row.id in seen:
            loaded.duplicates += 1
            continue
        seen.add(row.id)
        loaded.rows.append(row)
    divide(loaded, settings.heldout_fraction, settings.seed)
    if not loaded.rows and not loaded.held_out:
        raise UserError(
            f"data: {settings.source} has no usable row ({loaded.read} read, {len(loaded.bad)} bad).",
            f"First reason: {loaded.bad[0][1]}." if loaded.bad else "",
        )
    return loaded


def divide(loaded: Loaded[Row], fraction: float, seed: int = 0) -> None:
    """Set the held-out share aside; a prompt's side follows from its text and the seed alone."""
    rows, loaded.rows = loaded.rows, []
    for row in rows:
        aside = int(parse.identity(_prompt_of(row), seed)[:8], 16) / 2**32 < fraction
        (loaded.held_out if aside else loaded.rows).append(row)


def _prompt_of(row: AnyRow) -> Messages:
    """What stands before the first trained message; the whole row where nothing does (plain text)."""
    if isinstance(row, Pair | Steps):
        return row.prompt
    if isinstance(row, Prompt):
        return row.messages
    return row.messages[: row.mask().index(True)] or row.messages


def check_disjoint(train: Iterable[AnyRow], evaluation: Iterable[AnyRow]) -> None:
    """Refuse a prompt that stands in both training and evaluation."""
    places = {_prompt_of(row): row.place for row in train}
    for row in evaluation:
        if (place := places.get(_prompt_of(row))) is not None:
            raise UserError(
                f"the prompt of {row.place} stands in the training data too, at {place}.",
                "Use `heldout_fraction` on one source, or remove it from one side.",
            )
