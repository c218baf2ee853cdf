"""The run folder.

recipe.yaml      the resolved recipe
manifest.json    versions, hardware, seeds, command, data with hashes and bad rows
summary.json     every number of the report
report.html
stages/<name>/   metrics.jsonl, rollouts/<step>.parquet, checkpoints/, output/, done.json
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import differences
from rewardlab.core.yaml_lines import parse_value
from rewardlab.records import lock, manifest
from rewardlab.records.atomic import PARTIAL, read_json, remove_partials, write_text
from rewardlab.records.stage import StageRecord

__all__ = ["Run", "StageRecord"]

MOST_DIFFERENCES = 5
DELETED_RECIPE = f".recipe.yaml{PARTIAL}"


class Run:
    """A run folder that is being written or continued, by this process alone."""

    def __init__(self, folder: Path, held: IO[str]) -> None:
        self.folder = folder
        self._held = held  # the lock lasts as long as this file is open

    @staticmethod
    def open(folder: Path, recipe_yaml: str, *, seed: int, fresh: bool = False) -> Run:
        """Make the folder, or continue it if it holds the same recipe.

        `fresh` deletes what a run left there before. Refused with a UserError: another recipe, a folder
        with other things in it, a folder that another process writes to.
        """
        stored = folder / "recipe.yaml"
        if not _is_run_or_empty(folder):
            raise UserError(
                f"{folder} exists and is not a run folder.",
                "Give this run another `name=...`, or move that folder away.",
            )
        run = Run(folder, lock.lock(folder))
        if fresh or not stored.is_file():
            _empty(folder)
        remove_partials(folder)
        if stored.is_file():
            _refuse_other_recipe(stored, recipe_yaml, folder)
            run._note_resumption()
        else:
            # recipe.yaml comes last: with it the folder is a run.
            write_text(folder / "manifest.json", _json(manifest.describe(seed)))
            write_text(stored, recipe_yaml)
        return run

    def stage(self, name: str) -> StageRecord:
        """The record of one stage; its name is a folder's name."""
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(
                f"the stage name {name!r} cannot be a folder's name.",
                "Use letters, digits, `_`, `-` and `.`, starting with a letter or digit.",
            )
        return StageRecord(name, self.folder / "stages" / name)

    def update_manifest(self, facts: Mapping[str, Any]) -> None:
        """Merge facts into manifest.json."""
        file = self.folder / "manifest.json"
        write_text(file, _json(manifest.update(read_json(file), facts)))

    def add_data(self, use: str, facts: Mapping[str, Any]) -> None:
        """Note in the manifest what a stage read: source, hash, rows, bad rows with reasons.

        Raises UserError if an earlier start of this run read other bytes for the same use.
        """
        found = read_json(self.folder / "manifest.json")
        before, after = found["data"].get(use, {}).get("sha256"), facts.get("sha256")
        if before and after and before != after:
            raise UserError(
                f"{use}: the data of {facts.get('source', 'this stage')} changed since {self.folder} began.",
                "Put the old data back, add --fresh to start anew, or give this run another `name=...`.",
            )
        write_text(self.folder / "manifest.json", _json({**found, "data": {**found["data"], use: facts}}))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, and the time of finishing unless it is known."""
        write_text(self.folder / "summary.json", _json(summary))
        if "finished" not in read_json(self.folder / "manifest.json"):
            self.update_manifest({"finished": manifest.now()})

    def _note_resumption(self) -> None:
        """An unfinished run that goes on: when, and with which versions where they changed since."""
        found = read_json(self.folder / "manifest.json")
        if "finished" not in found:
            was = found["versions"]
            changed = {k: v for k, v in manifest.versions().items() if was.get(k) != v}
            entry = {"at": manifest.now(), **({"versions": changed} if changed else {})}
            self.update_manifest({"resumed": [*found.get("resumed", []), entry]})


def _refuse_other_recipe(stored: Path, recipe_yaml: str, folder: Path) -> None:
    found = differences(parse_value(stored.read_text(encoding="utf-8")), parse_value(recipe_yaml))
    if found:
        more = f" and {len(found) - MOST_DIFFERENCES} more" if len(found) > MOST_DIFFERENCES else ""
        raise UserError(
            f"{folder} holds a run of another recipe (different: "
            f"{', '.join(found[:MOST_DIFFERENCES])}{more}).",
            "Add --fresh to delete it, or give this run another `name=...`.",
        )


def _is_run_or_empty(folder: Path) -> bool:
    """Whether the folder has a run in it, the beginning of one, or nothing."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {p.name for p in folder.iterdir()}
    if "manifest.json" in names and not names.isdisjoint(("recipe.yaml", DELETED_RECIPE)):
        return True
    return all(name in ("manifest.json", lock.NAME) or name.endswith(PARTIAL) for name in names)


def _empty(folder: Path) -> None:
    """Delete a run. recipe.yaml is renamed first and deleted last, so that a run whose deletion is killed
    half-way is known as one and never continued."""
    if (folder / "recipe.yaml").exists():
        (folder / "recipe.yaml").replace(folder / DELETED_RECIPE)
    last = ("manifest.json", DELETED_RECIPE)
    for path in sorted(folder.iterdir(), key=lambda p: last.index(p.name) if p.name in last else -1):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != lock.NAME:
            path.unlink()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)
