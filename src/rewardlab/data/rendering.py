"""Messages to token ids with a mask, through the tokenizer's own chat template, once.

The conversation is rendered to one string and tokenised once. What an assistant turn is trained on
begins where the rendering of the messages before it, with the generation prompt, ends: exactly where the
policy will start to write. It ends with the stop token that the template puts behind the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Messages, Pair, Prompt, Sequence


@dataclass(frozen=True)
class Rendered:
    """A row as tokens, and what truncation did to it."""

    sequence: Sequence
    cut_left: int = 0
    """Prompt tokens dropped."""
    cut_right: int = 0
    """Answer tokens dropped, because the answer alone was too long."""


def chat_text(tokenizer: Any, messages: Messages, *, generation: bool = False) -> str:
    """The template's string for these messages."""
    rows = [{"role": m.role, "content": m.content} for m in messages]
    text: str = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation)
    return text


def render_example(
    tokenizer: Any, example: Example, max_tokens: int | None = None, *, train_all: bool = False
) -> Rendered:
    """Ids and mask of a conversation. Trained: each chosen turn's text and its stop token.

    With `train_all` every token but the first is trained, as in pretraining. An empty assistant turn
    trains its stop token only. Where the template ends the last answer without a stop token, the eos
    token is appended, so that the policy can learn to stop. A token that begins before the answer belongs
    to the prompt. UserError, naming the row: nothing to train on, a message that contains the text of a
    special token, a template that does not extend its own prompt.
    """
    _refuse_special_text(tokenizer, example.messages, example.place)
    text = chat_text(tokenizer, example.messages)
    spans, ends_open = ([(0, len(text))], False) if train_all else _spans(tokenizer, example, text)
    encoded = _encode(tokenizer, text)
    ids: list[int] = list(encoded["input_ids"])
    action = [False] * len(ids)
    for t, (start, end) in enumerate(encoded["offset_mapping"]):
        action[t] = end > start and any(a <= start and end <= b for a, b in spans)
    if ends_open and tokenizer.eos_token_id is not None:
        while action and not action[-1]:  # what the template writes behind the answer
            ids.pop(), action.pop()
        ids.append(tokenizer.eos_token_id)
        action.append(True)
    if action and action[0]:
        action[0] = False
    return _truncate(tokenizer, ids, action, max_tokens, example.place)


def render_pair(tokenizer: Any, pair: Pair, max_tokens: int | None = None) -> tuple[Rendered, Rendered]:
    """Both answers of a preference, each after the same prompt; only the answers are actions."""
    both = []
    for answer in (pair.chosen, pair.rejected):
        trained = (*(False for _ in pair.prompt), *(m.role == "assistant" for m in answer))
        example = Example(pair.prompt + answer, trained, place=pair.place)
        both.append(render_example(tokenizer, example, max_tokens))
    return both[0], both[1]


def render_prompt(tokenizer: Any, prompt: Prompt, max_tokens: int | None = None) -> list[int]:
    """Ids of a prompt up to where the policy begins; too long ones lose their left end, after the BOS."""
    _refuse_special_text(tokenizer, prompt.messages, prompt.place)
    text = chat_text(tokenizer, prompt.messages, generation=True)
    ids: list[int] = list(_encode(tokenizer, text)["input_ids"])
    if max_tokens is not None and len(ids) > max_tokens:
        keep = _bos(tokenizer, ids)
        ids = ids[:keep] + ids[len(ids) - max_tokens + keep :]
    return ids


def turn_end(tokenizer: Any) -> int | None:
    """The id that the template writes behind an answer, or the eos id where it writes none."""
    probe = (Message("user", "a"), Message("assistant", "b"))
    rendered = render_example(tokenizer, Example(probe))
    last = max(t for t, a in enumerate(rendered.sequence.action) if a)
    found = rendered.sequence.ids[last]
    return found if found in tokenizer.all_special_ids else tokenizer.eos_token_id


def _spans(tokenizer: Any, example: Example, text: str) -> tuple[list[tuple[int, int]], bool]:
    """Character spans that are trained, and whether the last one lacks a stop token."""
    spans: list[tuple[int, int]] = []
    ends_open = False
    for i, (message, trained) in enumerate(zip(example.messages, example.mask(), strict=True)):
        if not trained:
            continue
        before = chat_text(tokenizer, example.messages[:i], generation=True)
        answer = message.content.strip()
        start = len(before)
        found = text.find(answer, start) if text.startswith(before) else -1
        if found < 0:
            raise UserError(
                f"{example.place or 'a row'}: the chat template rewrites message {i + 1}, so what to train "
                "on cannot be located.",
                "Use a template whose rendering of a conversation extends that of its beginning.",
            )
        end, closed = _close(tokenizer, text, found + len(answer))
        ends_open = not closed and i == len(example.messages) - 1
        spans.append((start, end))
    if not spans:
        raise UserError(
            f"{example.place or 'a row'}: there is no token to train on (no assistant message).",
            "Map the answer's column (`columns: {completion: ...}`), or leave the row out.",
        )
    return spans, ends_open


def _close(tokenizer: Any, text: str, end: int) -> tuple[int, bool]:
    """Where the stop token behind an answer ends; (end, False) if other text comes first."""
    rest = text[end:]
    skip = len(rest) - len(rest.lstrip())
    for token in tokenizer.all_special_tokens:
        if token and rest.startswith(token, skip):
            return end + skip + len(token), True
    return end, False


def _refuse_special_text(tokenizer: Any, messages: Messages, place: str) -> None:
    """Text that spells a special token would become that token: a stop, or a turn that nobody took."""
    for message in messages:
        for token in tokenizer.all_special_tokens:
            if token and token in message.content:
                raise UserError(
                    f"{place or 'a row'}: a message contains the text {token!r}, which this tokenizer reads "
                    "as a special token.",
                    "Remove or rewrite that text; `on_bad_row: skip` leaves such rows out.",
                )


def _encode(tokenizer: Any, text: str) -> Any:
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer has no fast version, so trained tokens cannot be located exactly.",
            "Convert it to a tokenizer.json.",
        )
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)


def _bos(tokenizer: Any, ids: list[int]) -> int:
    return int(bool(ids) and ids[0] == tokenizer.bos_token_id)


def _truncate(
    tokenizer: Any, ids: list[int], action: list[bool], max_tokens: int | None, place: str
) -> Rendered:
    if not any(action):
        raise UserError(
            f"{place or 'a row'}: there is no token to train on.",
            "Leave the row out, or check the chat template and `train_on`.",
        )
    over = len(ids) - max_tokens if max_tokens is not None else 0
    if over <= 0:
        return Rendered(Sequence(tuple(ids), tuple(action)))
    keep = _bos(tokenizer, ids)
    first = action.index(True)
    # At least one token must stand before the first action, since that is predicted from something.
    left = min(over, max(0, first - max(keep, 1)))
    ids, action = ids[:keep] + ids[keep + left :], action[:keep] + action[keep + left :]
    right = over - left
    if right:
        ids, action = ids[:max_tokens], action[:max_tokens]
    if not any(action):
        raise UserError(
            f"{place or 'a row'}: nothing to train on is left within max_tokens={max_tokens}.",
            "Raise `max_tokens`.",
        )
    sequence = Sequence(tuple(ids), tuple(action), stop="length" if right else "data")
    return Rendered(sequence, cut_left=left, cut_right=right)
