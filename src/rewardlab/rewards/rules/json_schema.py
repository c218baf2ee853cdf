"""Answers that must be JSON of a given shape. Checking a schema needs the extra `json`."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from typing import Any, Literal

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.rule import RowError, Rule, reference

_FENCE = re.compile(r"\A\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL | re.IGNORECASE)


def read_json(text: str) -> Any:
    """The JSON value that a text is, with or without one code fence around it; ValueError otherwise.

    NaN and infinities, which are not JSON, are refused.
    """
    fence = _FENCE.match(text)

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(fence[1] if fence else text, parse_constant=refuse)


class JsonSchemaSettings(RewardSettings):
    """1 if the answer is JSON that a JSON Schema (draft 2020-12) accepts, else 0."""

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | None = None
    """The schema."""
    field: str | None = None
    """Key of the prompt's meta with each prompt's own schema, instead."""
    parses: float = 0.0
    """Value of JSON that the schema refuses."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule; parts `valid` and `parses`."""
        if (self.json_schema is None) == (self.field is None):
            raise UserError(f"the reward {name!r} has no schema, or two.", "Give `json_schema` or `field`.")
        if find_spec("jsonschema") is None:
            raise UserError(
                f"the reward {name!r} needs jsonschema.", "Install it: pip install 'rewardlab[json]'."
            )
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        if self.json_schema is not None:
            try:
                Draft202012Validator.check_schema(self.json_schema)
            except SchemaError as error:
                raise UserError(
                    f"the reward {name!r} has no valid schema: {error.message}.", "See json-schema.org."
                ) from error

        def judge(rollout: Rollout) -> dict[str, float]:
            schema = self.json_schema if self.field is None else reference(rollout, self.field)
            try:
                value = read_json(rollout.text)
            except (ValueError, RecursionError):
                return {"reward": 0.0, "valid": 0.0, "parses": 0.0}
            try:
                Draft202012Validator.check_schema(schema)
            except SchemaError as error:
                raise RowError(f"{self.field!r} is no schema: {error.message}") from error
            valid = Draft202012Validator(schema).is_valid(value)
            return {"reward": 1.0 if valid else self.parses, "valid": float(valid), "parses": 1.0}

        return Rule(name, judge, self)
