"""Base of every settings model: unknown keys are refused, the docstring under a field is its help."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Subclass beside the component that owns the knobs, with a docstring under each field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
