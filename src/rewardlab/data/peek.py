"""A rendered row for the eye: trained tokens in colour."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from rewardlab.core.types import Sequence


def format_rendered(tokenizer: Any, sequence: Sequence) -> Text:
    """The row's text with trained tokens bold green; runs are decoded together, so no character is cut."""
    text = Text()
    start = 0
    for t in range(1, len(sequence) + 1):
        if t == len(sequence) or sequence.action[t] != sequence.action[start]:
            piece = tokenizer.decode(sequence.ids[start:t], clean_up_tokenization_spaces=False)
            text.append(piece, style="bold green" if sequence.action[start] else "dim")
            start = t
    return text
