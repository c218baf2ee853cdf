"""Where rows come from and how they are read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rewardlab.core.settings import Settings


class DataSettings(Settings):
    """A source of rows. A bare string in a recipe is its `source`."""

    source: str
    """A JSONL(.gz) or Parquet file, a folder of them, or `hf:org/name[[:config]:split]`."""
    columns: dict[str, str] = {}
    """Our name -> the source's column (`completion: solution`); dots reach into nested objects."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`error` stops at the first bad row and names it; `skip` leaves it out, counted in the manifest."""
    limit: int | None = Field(default=None, ge=1)
    """Take only this many rows, in the source's order."""
    heldout_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of prompts set aside, chosen by a hash of the prompt: one prompt is never on both sides."""
    seed: int = 0
    """Another seed sets other prompts aside."""

    @model_validator(mode="before")
    @classmethod
    def _bare_source(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value
