"""Messages to token ids with a mask, through the tokenizer's own chat template, once.

The conversation is rendered to one string and tokenised once. What an assistant turn is trained on begins
where the rendering of the messages before it, with the generation prompt, ends: exactly where the policy
will start to write. It ends with the stop token that the template puts behind an answer. Nothing behind the
last trained token is kept, so a rendered answer ends as a sampled one does.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Messages, Pair, Prompt, Sequence, Steps

Span = tuple[int, int]
MARK = "Answer5b1f0c"
"""Stands in for a message's content to find where the template puts it."""


class UnrenderableError(UserError):
    """A row that this tokenizer and template cannot render; other rows may be fine."""


@dataclass(frozen=True)
class Rendered:
    """A row as tokens, and what truncation did to it."""

    sequence: Sequence
    cut_left: int = 0
    """Prompt tokens dropped."""
    cut_right: int = 0
    """Tokens dropped from the end, because what is trained was too long by itself."""
    straddles: bool = False
    """A token covers both the end of a header and the start of an answer; it counts as header. The policy
    would start from other ids than the row has."""


@dataclass(frozen=True)
class _Template:
    """What a tokenizer and its template do, found out once."""

    specials: tuple[str, ...]
    """Text of every special token."""
    stop: str | None
    """The special token behind the last answer of a conversation; None if there is none."""
    opening: str
    """What a generation prompt adds to a conversation."""


def chat_text(tokenizer: Any, messages: Messages, *, generation: bool = False, place: str = "") -> str:
    """The template's string for these messages."""
    if not messages:
        raise UnrenderableError(f"{place or 'a row'}: there is no message.", "Leave the row out.")
    rows = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text: str = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        raise UnrenderableError(
            f"{place or 'a row'}: the chat template refuses these messages ({error}).",
            "Change the order or roles of the messages, or use another `chat_template`.",
        ) from error
    return text


def render_example(
    tokenizer: Any,
    example: Example,
    max_tokens: int | None = None,
    *,
    train_all: bool = False,
    whole: bool = False,
) -> Rendered:
    """Ids and mask of a conversation. Trained: each chosen turn's text and its stop token.

    With `train_all` every token but the first is trained, as in pretraining. With `whole` the ids are all
    that the template writes and nothing else, also behind the last trained token: where a public reward
    model has learnt to give its score. An empty assistant turn
    trains its stop token only. Where the template writes no stop token behind an answer, the last trained
    turn gets the eos token, if there is one, so that the policy can learn to stop. A first token that would
    have to be an action gets the bos (else the eos) token before it.
    Truncation drops the prompt's left end but for a bos token, then the right end of what is trained.
    UnrenderableError, naming the row: nothing to train on, a message with the text of a special token, a
    template that rewrites an answer or does not extend its own prompt.
    """
    ids, action, straddles = _tokens(tokenizer, example, train_all=train_all, whole=whole)
    left = _excess(tokenizer, ids, action, max_tokens)
    return _cut(tokenizer, ids, action, straddles, left, max_tokens)


def render_pair(tokenizer: Any, pair: Pair, max_tokens: int | None = None) -> tuple[Rendered, Rendered]:
    """Both answers of a preference; only the answers are actions.

    If one of them is too long, both lose the same part of the prompt, so that it stays the same prompt.
    """
    both = []
    for answer in (pair.chosen, pair.rejected):
        trained = (*(False for _ in pair.prompt), *(m.role == "assistant" for m in answer))
        both.append(_tokens(tokenizer, Example(pair.prompt + answer, trained, place=pair.place)))
    left = max(_excess(tokenizer, ids, action, max_tokens) for ids, action, _ in both)
    chosen, rejected = (
        _cut(tokenizer, ids, action, straddles, left, max_tokens) for ids, action, straddles in both
    )
    return chosen, rejected


def render_steps(
    tokenizer: Any, row: Steps, joiner: str, max_tokens: int | None = None
) -> tuple[Rendered, list[int]]:
    """The steps, with `joiner` between them, as one answer; and the position of each step's last token.

    Positions come from the tokenizer's offsets, so no separator has to be a token of its own. Steps that
    `max_tokens` cuts off from the right have no position, so there can be fewer positions than steps.
    UnrenderableError: as `render_example`; a template that changes the answer's text; two steps that end in
    one token.
    """
    answer = joiner.join(row.steps)
    messages = (*row.prompt, Message("assistant", answer))
    example = Example(messages, (*(False for _ in row.prompt), True), place=row.place)
    ids, action, straddles = _tokens(tokenizer, example)
    text = chat_text(tokenizer, messages, place=row.place)
    (start, end) = _spans(tokenizer, example, text)[0][-1]
    begin = text.find(answer, start)
    encoded = _encode(tokenizer, text[:end])
    before = int(ids[: len(encoded["input_ids"])] != list(encoded["input_ids"]))  # a bos put in front
    begins = [lo for lo, _ in encoded["offset_mapping"]]
    ends, character = [], begin
    for step in row.steps:
        ends.append(bisect.bisect_left(begins, character + len(step)) - 1 + before)
        character += len(step) + len(joiner)
    if begin < 0 or len(set(ends)) < len(ends):
        raise UnrenderableError(
            f"{row.place or 'a row'}: the ends of its steps cannot be told apart as tokens.",
            "Leave the row out (`on_bad_row: skip`), or join its empty or tiny steps with others.",
        )
    left = _excess(tokenizer, ids, action, max_tokens)
    rendered = _cut(tokenizer, ids, action, straddles, left, max_tokens)
    placed = [e - rendered.cut_left for e in ends]
    return rendered, [e for e in placed if e < len(rendered.sequence)]


def render_prompt(tokenizer: Any, prompt: Prompt, max_tokens: int | None = None) -> list[int]:
    """Ids of a prompt up to where the policy begins; too long ones lose their left end, after the bos."""
    _refuse_special_text(tokenizer, prompt.messages, prompt.place)
    text = chat_text(tokenizer, prompt.messages, generation=True, place=prompt.place)
    ids: list[int] = list(_encode(tokenizer, text)["input_ids"]) or [_first_id(tokenizer, prompt.place)]
    if max_tokens is not None and len(ids) > max_tokens:
        keep = _bos(tokenizer, ids)
        ids = ids[:keep] + ids[len(ids) - max_tokens + keep :]
    return ids


def extends_prompt(tokenizer: Any, example: Example) -> bool:
    """Whether the row's ids begin with those the policy would be given before the first trained turn."""
    first = example.mask().index(True)
    prompt = render_prompt(tokenizer, Prompt(example.messages[:first], place=example.place))
    return _tokens(tokenizer, example)[0][: len(prompt)] == prompt


def turn_end(tokenizer: Any) -> int | None:
    """The id that the template writes behind an answer, or the eos id where it writes none."""
    stop = _template(tokenizer, tokenizer.chat_template).stop
    found: int | None = tokenizer.eos_token_id if stop is None else tokenizer.convert_tokens_to_ids(stop)
    return found


@functools.lru_cache(maxsize=8)
def _template(tokenizer: Any, chat_template: Any) -> _Template:
    """`chat_template` is only part of the key: a new template is looked at again."""
    added = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    specials = tuple(sorted(added | set(tokenizer.all_special_tokens), key=lambda t: (-len(t), t)))
    ask = (Message("user", "a"),)
    try:
        asked = chat_text(tokenizer, ask)
        opening = chat_text(tokenizer, ask, generation=True).removeprefix(asked)
        answered = chat_text(tokenizer, (*ask, Message("assistant", MARK)))
    except UnrenderableError:
        return _Template(specials, None, "")
    tail = answered.partition(MARK)[2].lstrip()
    return _Template(specials, next((t for t in specials if tail.startswith(t)), None), opening)


def _tokens(
    tokenizer: Any, example: Example, *, train_all: bool = False, whole: bool = False
) -> tuple[list[int], list[bool], bool]:
    """Ids, mask, and whether a token straddles the start of an answer; nothing is cut yet."""
    _refuse_special_text(tokenizer, example.messages, example.place)
    text = chat_text(tokenizer, example.messages, place=example.place)
    if train_all:
        spans, stopped = [(0, len(text))], _template(tokenizer, tokenizer.chat_template).stop is not None
    else:
        spans, stopped = _spans(tokenizer, example, text)
    encoded = _encode(tokenizer, text if whole else text[: spans[-1][1]])
    ids: list[int] = list(encoded["input_ids"])
    action, straddles = _mask(encoded.tokens(), encoded["offset_mapping"], text, spans)
    if not stopped and not whole and tokenizer.eos_token_id is not None:
        ids, action = [*ids, tokenizer.eos_token_id], [*action, True]
    if train_all and action:
        action[0] = False
    if not any(action):
        raise UnrenderableError(
            f"{example.place or 'a row'}: there is no token to train on.",
            "Leave the row out (`on_bad_row: skip`), or check the chat template.",
        )
    if action[0]:
        ids, action = [_first_id(tokenizer, example.place), *ids], [False, *action]
    return ids, action, straddles


def _spans(tokenizer: Any, example: Example, text: str) -> tuple[list[Span], bool]:
    """Character spans that are trained, and whether the last one ends with a stop token."""
    messages, place = example.messages, example.place or "a row"
    template = _template(tokenizer, tokenizer.chat_template)
    stop, stopped = template.stop, False
    spans: list[Span] = []
    for i, (message, trained) in enumerate(zip(messages, example.mask(), strict=True)):
        if not trained:
            continue
        mark = MARK
        while mark in text:
            mark += "x"
        marked = (*messages[:i], Message(message.role, mark), *messages[i + 1 :])
        head, found, tail = chat_text(tokenizer, marked, place=example.place).partition(mark)
        if i:
            before = chat_text(tokenizer, messages[:i], generation=True, place=example.place)
        else:  # no conversation to extend: behind the header, if the template writes the usual one
            before, opening, _ = head.rpartition(template.opening) if template.opening else (head, "", "")
            before = before + opening if opening else head
        start, end = len(before), len(text) - len(tail)
        if not (
            text.startswith(before)
            and found
            and text.endswith(tail)
            and start <= end
            and "".join(text[:end].split()).endswith("".join(message.content.split()))
        ):
            raise UnrenderableError(
                f"{place}: the chat template rewrites message {i + 1} or what stands before it, so the row "
                "is not what the policy would be given and write.",
                "Use a `chat_template` whose rendering of a conversation extends that of its beginning.",
            )
        rest = text[end:]
        gap = len(rest) - len(rest.lstrip())
        stopped = stop is not None and rest.startswith(stop, gap)
        spans.append((start, end + gap + len(stop or "") if stopped else end))
    if not spans:
        raise UnrenderableError(
            f"{place}: there is no token to train on (no assistant message).",
            "Map the answer's column (`columns: {completion: ...}`), or leave the row out.",
        )
    return spans, stopped


def _encode(tokenizer: Any, text: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "the tokenizer has no fast version, so trained tokens cannot be located exactly.",
            "Convert it to a tokenizer.json.",
        )
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _mask(tokens: list[str], offsets: list[Span], text: str, spans: list[Span]) -> tuple[list[bool], bool]:
    """Tokens that begin inside a span, and whether one lies over the beginning of a span.

    Some byte-level tokenizers (Llama 3) leave a token's leading spaces out of its offsets, so what bisection
    finds is checked token by token against where each really begins.
    """

    def begin(t: int) -> int:
        lo, hi = offsets[t]
        leading = len(tokens[t]) - len(tokens[t].lstrip("Ġ"))
        return lo - leading if leading and (lo == hi or text[lo] != " ") else lo

    action, straddles = [False] * len(tokens), False
    begins = [lo for lo, _ in offsets]
    for a, b in spans:
        first = bisect.bisect_left(begins, a)
        while first < len(tokens) and (begin(first) < a or offsets[first][1] <= a):
            first += 1
        after = max(first, bisect.bisect_left(begins, b))
        while after < len(tokens) and begin(after) < b:
            after += 1
        action[first:after] = [True] * (after - first)
        straddles |= first > 0 and begin(first - 1) < a < offsets[first - 1][1]
    return action, straddles


def _refuse_special_text(tokenizer: Any, messages: Rows[Message], place: str) -> None:
    """Text that spells a special token would become that token: a stop, or a turn that nobody took."""
    specials = _template(tokenizer, tokenizer.chat_template).specials
    for number, message in enumerate(messages, 1):
        for token in specials:
            if token and token in message.content:
                raise UnrenderableError(
                    f"{place or 'a row'}: message {number} contains the text {token!r}, which this "
                    "tokenizer reads as a special token.",
                    "Remove or rewrite that text, or leave such rows out (`on_bad_row: skip`).",
                )


def _first_id(tokenizer: Any, place: str) -> int:
    """The token that is put before an answer with nothing before it."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UnrenderableError(
        f"{place or 'a row'}: nothing stands before the answer, and the tokenizer has no bos or eos token.",
        "Use a chat template that opens each turn, or give the tokenizer a bos token.",
    )


def _bos(tokenizer: Any, ids: list[int]) -> int:
    return int(bool(ids) and ids[0] == tokenizer.bos_token_id)


def _excess(tokenizer: Any, ids: list[int], action: list[bool], max_tokens: int | None) -> int:
    """How many prompt tokens must go; one token always stands before the first action."""
    if max_tokens is None:
        return 0
    room = action.index(True) - max(_bos(tokenizer, ids), 1)
    return min(max(0, len(ids) - max_tokens), max(0, room))


def _cut(
    tokenizer: Any, ids: list[int], action: list[bool], straddles: bool, left: int, max_tokens: int | None
) -> Rendered:
    """Drop `left` tokens of the prompt, then whatever is still too long from the end."""
    keep = _bos(tokenizer, ids)
    left = min(left, action.index(True) - keep)
    ids, action = ids[:keep] + ids[keep + left :], action[:keep] + action[keep + left :]
    size = len(ids) if max_tokens is None else min(len(ids), max(2, max_tokens))
    right = len(ids) - size
    while right and not action[size - 1]:  # a header whose turn was cut off
        size, right = size - 1, right + 1
    sequence = Sequence(tuple(ids[:size]), tuple(action[:size]), stop="length" if right else "data")
    return Rendered(sequence, left, right, straddles)
