"""What one stage writes: metrics, rollouts, checkpoints, output, and that it is done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.records import rollouts
from rewardlab.records.atomic import disk_errors, read_json, write_file, write_text


class StageRecord:
    """The record of a stage, in its folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.checkpoints = folder / "checkpoints"
        self.output = folder / "output"
        self._metrics = folder / "metrics.jsonl"
        self._rollouts = folder / "rollouts"
        self._whole = False
        """Whether a torn last line of metrics.jsonl has been cut off."""

    def metrics(self, step: int, **values: float) -> None:
        """Append one line; a crash can tear only the last one. A value that is not finite becomes null."""
        row = {"step": step, **{k: _json_number(v) for k, v in values.items()}}
        with disk_errors(self._metrics):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._whole:
                _cut_torn_line(self._metrics)
                self._whole = True
            try:
                with self._metrics.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row, allow_nan=False) + "\n")
            except OSError:
                self._whole = False
                raise

    def read_metrics(self) -> list[dict[str, float]]:
        """All whole lines; null reads as NaN. A damaged line before the last is an error that names it."""
        return [
            {k: math.nan if v is None else v for k, v in json.loads(line).items()} for line in self._lines()
        ]

    def truncate_to(self, step: int) -> None:
        """Drop what was recorded after `step`: those steps are taken again and give the same record."""
        if self._metrics.is_file():
            kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
            write_text(self._metrics, "".join(line + "\n" for line in kept))
        for number in self.rollout_steps():
            if number > step:
                self._rollout_file(number).unlink()

    def write_rollouts(
        self, step: int, rows: Rows[Rollout], columns: Mapping[str, Rows[float]] | None = None
    ) -> None:
        """One Parquet file a step, with any further numbers per rollout as columns."""
        table = rollouts.to_table(rows, columns or {})
        write_file(self._rollout_file(step), lambda temporary: rollouts.write(table, temporary))

    def read_rollouts(self, step: int) -> list[Rollout]:
        """The rollouts of a step."""
        return rollouts.read(self._rollout_file(step))

    def rollout_steps(self) -> list[int]:
        """The steps whose rollouts are recorded, in order."""
        return sorted(int(f.stem) for f in self._rollouts.glob("*.parquet") if f.stem.isdigit())

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """The stage is done; a later run of the same folder takes this outcome."""
        write_text(self.folder / "done.json", json.dumps(outcome))

    def done(self) -> dict[str, Any] | None:
        """What `finish` was given, or None."""
        file = self.folder / "done.json"
        return read_json(file) if file.is_file() else None

    def _rollout_file(self, step: int) -> Path:
        return self._rollouts / f"{step:06d}.parquet"

    def _lines(self) -> list[str]:
        """The whole lines of metrics.jsonl, each of them JSON."""
        if not self._metrics.is_file():
            return []
        lines = self._metrics.read_bytes().split(b"\n")[:-1]  # the last piece has no line end: torn
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(json.dumps(json.loads(line)))
            except ValueError as error:
                raise UserError(
                    f"{self._metrics}:{number}: not a line of metrics ({error}).",
                    "Remove that line, or start the run anew with --fresh.",
                ) from error
        return found


def _json_number(value: float) -> float | None:
    """JSON has no NaN and no infinity; numpy and torch scalars become Python numbers."""
    number = value if type(value) is int else float(value)
    return number if math.isfinite(number) else None


def _cut_torn_line(file: Path) -> None:
    """Remove what follows the last line end: a writer was killed there."""
    if file.is_file():
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with file.open("r+b") as stream:
                stream.truncate(whole)
