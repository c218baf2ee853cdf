"""Rewards on plain prompts and completions, as other libraries and HTTP clients hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.core.types import Message, Messages, Prompt, Rollout
from rewardlab.core.types import Sequence as Tokens

Text = str | Sequence[Mapping[str, Any]]
"""A text, or messages as mappings with `role` and `content`."""


def to_messages(prompt: Text) -> Messages:
    """A prompt as messages; a text is one user message. ValueError on anything else."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    try:
        found = tuple(Message(str(m["role"]), m["content"]) for m in prompt)
    except (TypeError, KeyError) as error:
        raise ValueError("messages are a list of objects with `role` and `content`") from error
    if not found or not all(isinstance(m.content, str) for m in found):
        raise ValueError("a prompt needs at least one message, and the content of each is text")
    return found


def to_text(completion: Text) -> str:
    """A completion as text; of messages, the assistant's words, turns joined by a line break."""
    if isinstance(completion, str):
        return completion
    return "\n".join(m.content for m in to_messages(completion) if m.role == "assistant")


def to_rollouts(
    prompts: Sequence[Text], completions: Sequence[Text], meta: Sequence[Mapping[str, Any]] | None = None
) -> list[Rollout]:
    """Rollouts without token ids; equal prompts with equal meta are one group."""
    rows = meta or [{}] * len(prompts)
    groups: dict[str, int] = {}
    out = []
    for number, (prompt, completion, row) in enumerate(zip(prompts, completions, rows, strict=True)):
        group = groups.setdefault(repr((prompt, row)), len(groups))
        asked = Prompt(to_messages(prompt), meta=row, place=f"item {number}")
        out.append(Rollout(asked, Tokens((0,), (False,)), to_text(completion), group))
    return out


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
