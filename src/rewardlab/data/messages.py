"""Conversations as files write them: message lists, Human/Assistant transcripts, plain text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rewardlab.core.types import Message, Messages

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
ROLES = ("system", "developer", "user", "assistant", "tool")


class BadRowError(Exception):
    """Why a row cannot be used, in a few words."""


def is_transcript(text: str) -> bool:
    """Whether text is a Human/Assistant transcript rather than a message that happens to say `Human:`."""
    return text.startswith("\n\nHuman:") or (text.lstrip().startswith("Human:") and "\n\nAssistant:" in text)


def hh_messages(text: str) -> Messages:
    """The turns of `\\n\\nHuman: ... \\n\\nAssistant: ...`, stripped.

    Only a marker after a blank line opens a turn, so `Assistant:` within a line is text. A last turn with
    nothing in it is kept as an empty message.
    """
    found = list(_TURN.finditer(text))
    if not found or found[0].start() != 0:
        raise BadRowError("the text is not a Human/Assistant transcript")
    ends = [m.start() for m in found[1:]] + [len(text)]
    return tuple(
        Message(_SPEAKERS[m[1]], text[m.end() : end].strip()) for m, end in zip(found, ends, strict=True)
    )


def conversation(value: Any, name: str) -> Messages:
    """A list of {role, content} objects, as it is."""
    if not isinstance(value, list) or not all(isinstance(m, Mapping) for m in value):
        items = {type(v).__name__ for v in value} if isinstance(value, list) else set()
        what = f"list of {', '.join(sorted(items))}" if items else type(value).__name__
        raise BadRowError(f"{name} is neither text nor a list of messages (but a {what})")
    found = []
    for number, m in enumerate(value, 1):
        role, content = m.get("role"), m.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            calls = " (it has tool calls, which are not read)" if m.get("tool_calls") else ""
            raise BadRowError(f"message {number} of {name} lacks a text `role` or `content`{calls}")
        if role not in ROLES:
            raise BadRowError(f"message {number} of {name} has the role {role!r}, none of {', '.join(ROLES)}")
        found.append(Message(role, checked_text(content, name)))
    if not any(m.content.strip() for m in found):
        raise BadRowError(f"{name} is empty")
    return tuple(found)


def prompt_messages(value: Any, name: str) -> Messages:
    """What stands before an answer: text as one user message, a transcript, or a message list.

    A transcript's closing `Assistant:` with nothing behind it only asks for the answer and is left out.
    """
    if not isinstance(value, str):
        return conversation(value, name)
    if not checked_text(value, name).strip():
        raise BadRowError(f"{name} is empty")
    if not is_transcript(value):
        return (Message("user", value),)
    turns = hh_messages(value)
    turns = turns[:-1] if turns[-1] == Message("assistant", "") else turns
    if not any(m.content for m in turns):
        raise BadRowError(f"{name} is empty")
    return turns


def answer_messages(value: Any, name: str, prompt: Messages) -> Messages:
    """What comes after `prompt`: text as one assistant message, or a message list.

    Files that repeat the prompt inside the answer (as messages or as a transcript) are understood.
    """
    if isinstance(value, str):
        if not checked_text(value, name).strip():
            raise BadRowError(f"{name} is empty")
        turns = hh_messages(value) if is_transcript(value) else ()
        if not prompt or turns[: len(prompt)] != prompt:
            turns = (*prompt, Message("assistant", value))
    else:
        turns = conversation(value, name)
        if turns[: len(prompt)] != prompt:
            turns = prompt + turns
    return checked_answer(turns[len(prompt) :], name)


def checked_answer(answer: Messages, name: str) -> Messages:
    """An answer starts and ends with an assistant message, and the last one says something."""
    if not answer or not answer[-1].content.strip():
        raise BadRowError(f"{name} is empty")
    if answer[0].role != "assistant" or answer[-1].role != "assistant":
        raise BadRowError(f"{name} does not start and end with an assistant message")
    return answer


def checked_text(text: str, name: str) -> str:
    """The text, if every character of it can be encoded (JSON can hold half of a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{name} is not valid Unicode at character {error.start + 1}") from error
    return text
