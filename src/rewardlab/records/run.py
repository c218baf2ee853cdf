"""The run folder.

recipe.yaml      the resolved recipe
manifest.json    versions, hardware, seeds, data with hashes and bad rows
summary.json     every number of the report
report.html
stages/<name>/   metrics.jsonl, rollouts/<step>.parquet, checkpoints/, output/, done.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.records import manifest, rollouts
from rewardlab.records.atomic import disk_errors, write_file, write_text


class Run:
    """A run folder that is being written or continued."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def open(folder: Path, recipe_yaml: str, *, seed: int, fresh: bool = False) -> Run:
        """Make the folder, or continue it if it holds the same recipe; a different one is refused."""
        if fresh and (folder / "recipe.yaml").is_file():
            shutil.rmtree(folder)
        run = Run(folder)
        stored = folder / "recipe.yaml"
        if stored.is_file():
            if stored.read_text(encoding="utf-8") != recipe_yaml:
                keys = _difference(stored, recipe_yaml)
                raise UserError(
                    f"{folder} holds a run of another recipe (different: {keys}).",
                    "Add --fresh to delete it, or give this run another `name=...`.",
                )
        else:
            write_text(stored, recipe_yaml)
            run._write("manifest.json", manifest.describe(seed))
        return run

    def stage(self, name: str) -> StageRecord:
        """The record of one stage."""
        return StageRecord(name, self.folder / "stages" / name)

    def add_data(self, use: str, facts: Mapping[str, Any]) -> None:
        """Note in the manifest what a stage read."""
        found = json.loads((self.folder / "manifest.json").read_text())
        found["data"][use] = facts
        self._write("manifest.json", found)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json and the time of finishing."""
        self._write("summary.json", summary)
        found = json.loads((self.folder / "manifest.json").read_text())
        found.setdefault("finished", datetime.now(UTC).isoformat(timespec="seconds"))
        self._write("manifest.json", found)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(content, indent=1, ensure_ascii=False))


class StageRecord:
    """What one stage writes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.checkpoints = folder / "checkpoints"
        self.output = folder / "output"
        self._metrics = folder / "metrics.jsonl"

    def metrics(self, step: int, **values: float) -> None:
        """Append one line; a crash can tear only the last one."""
        with disk_errors(self._metrics):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, **values}) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """All whole lines."""
        if not self._metrics.is_file():
            return []
        found = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break  # torn by a crash; truncate_to removes it before more is written
        return found

    def truncate_to(self, step: int) -> None:
        """Drop what was recorded after `step`: those steps are taken again and give the same record."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        if self._metrics.is_file():
            write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in kept))
        for file in (self.folder / "rollouts").glob("*.parquet"):
            if int(file.stem) > step:
                file.unlink()

    def write_rollouts(
        self, step: int, rows: Rows[Rollout], columns: Mapping[str, Rows[float]] | None = None
    ) -> None:
        """One Parquet file a step, with any further numbers per rollout as columns."""
        table = rollouts.to_table(rows, columns or {})
        path = self.folder / "rollouts" / f"{step:06d}.parquet"
        write_file(path, lambda temporary: rollouts.write(table, temporary))

    def read_rollouts(self, step: int) -> list[Rollout]:
        """The rollouts of a step."""
        return rollouts.read(self.folder / "rollouts" / f"{step:06d}.parquet")

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """The stage is done; a later run of the same folder takes this outcome."""
        write_text(self.folder / "done.json", json.dumps(outcome))

    def done(self) -> dict[str, Any] | None:
        """What `finish` was given, or None."""
        file = self.folder / "done.json"
        return json.loads(file.read_text()) if file.is_file() else None


def _difference(stored: Path, recipe_yaml: str) -> str:
    """The dotted keys in which two recipes differ, the first few."""
    old, new = _flat(yaml.safe_load(stored.read_text())), _flat(yaml.safe_load(recipe_yaml))
    keys = [k for k in dict.fromkeys([*old, *new]) if old.get(k, None) != new.get(k, None)]
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in items:
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
