"""Templates and tokenizers that could break the mask: each is rendered exactly or refused."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Pair, Prompt
from rewardlab.data.peek import format_rendered
from rewardlab.data.rendering import (
    UnrenderableError,
    extends_prompt,
    render_example,
    render_pair,
    render_prompt,
    turn_end,
)
from rewardlab.data.templates import TEMPLATES, ensure_chat_template
from support import tiny_tokenizer

HEADER = "<|im_start|>{{ m.role }}\n"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def made(
    template: str | None = None, *, trim: bool = False, bos: str | None = None
) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    if template is not None:
        tokenizer.chat_template = template
    if trim:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos is not None:
        tokenizer.bos_token = bos
    return tokenizer


def each(body: str, opening: str = OPENING) -> PreTrainedTokenizerFast:
    return made("{% for m in messages %}" + body + "{% endfor %}" + opening)


CHATML = made()
TRIMMED = made(trim=True)
words = st.text(max_size=40).filter(lambda s: "<|" not in s)
SPACED = st.text(alphabet=" \n\tab🙂é", max_size=30)


def chat(*contents: str, place: str = "") -> Example:
    roles = ("user", "assistant")
    return Example(tuple(Message(roles[i % 2], c) for i, c in enumerate(contents)), place=place)


def trained_text(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    sequence = render_example(tokenizer, example).sequence
    assert not sequence.action[0]
    assert sequence.action[-1]
    return str(tokenizer.decode([i for i, a in zip(sequence.ids, sequence.action, strict=True) if a]))


@settings(deadline=None, max_examples=100)
@given(user=SPACED, answers=st.lists(SPACED, min_size=1, max_size=3))
def test_offsets_without_leading_spaces_do_not_lose_whitespace_tokens(user: str, answers: list[str]) -> None:
    """Llama 3's tokenizer gives a run of spaces an empty span."""
    example = chat(*(c for answer in answers for c in (user, answer)))
    trimmed, plain = (render_example(t, example).sequence for t in (TRIMMED, CHATML))
    assert trimmed == plain


def test_an_answer_that_occurs_in_the_header_is_found_behind_it() -> None:
    body = (
        HEADER
        + "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>"
    )
    for answer in ("think", "<", "", "assistant"):
        assert trained_text(each(body), chat("Hi", answer)) == f"<think></think>{answer}<|im_end|>"


def test_a_whole_row_is_what_the_template_writes() -> None:
    no_stop = each("[{{ m.role }}]{{ m.content }}", "{% if add_generation_prompt %}[assistant]{% endif %}")
    for tokenizer in (CHATML, no_stop):
        row = chat("Hi", "Hello", "Cost?", "Two.")
        chat_rows = [{"role": m.role, "content": m.content} for m in row.messages]
        whole, usual = (render_example(tokenizer, row, whole=w).sequence for w in (True, False))
        assert list(whole.ids) == tokenizer.apply_chat_template(chat_rows, return_dict=False)
        size = min(len(whole), len(usual))
        assert whole.ids[: size - 1] == usual.ids[: size - 1]
        assert whole.action[: size - 1] == usual.action[: size - 1]


def test_a_template_that_strips_keeps_the_mask_in_place() -> None:
    stripped = each(HEADER + "{{ m.content | trim }}<|im_end|>\n")
    assert (
        trained_text(stripped, chat("Hi", "  Hello \n", "\nCost? ", " Two."))
        == "Hello<|im_end|>Two.<|im_end|>"
    )


THOUGHTS_DROPPED = (
    HEADER + "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
)


def test_a_template_that_drops_earlier_thoughts_is_refused_for_rows_that_train_on_them() -> None:
    tokenizer = each(THOUGHTS_DROPPED)
    row = chat("Hi", "<think>x</think>Hello", "Cost?", "<think>y</think>Two.", place="rows.jsonl:9")
    with pytest.raises(UnrenderableError, match=r"rows.jsonl:9.*rewrites message 2"):
        render_example(tokenizer, row)
    last = Example(row.messages, (False, False, False, True))
    assert trained_text(tokenizer, last) == "<think>y</think>Two.<|im_end|>"


def test_a_generation_prompt_that_the_row_does_not_contain_is_refused() -> None:
    forced = each(HEADER + "{{ m.content }}<|im_end|>\n", OPENING.replace("\n", "\n<think>\n"))
    with pytest.raises(UnrenderableError, match="not what the policy would be given"):
        render_example(forced, chat("Hi", "Hello"))
    assert trained_text(forced, chat("Hi", "<think>\nx</think>Hello")).startswith("x</think>Hello")


def test_a_template_that_refuses_a_role_order_names_the_row() -> None:
    strict = each("{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + HEADER)
    row = Example((Message("system", "S"), Message("user", "Hi"), Message("assistant", "A")), place="r:4")
    with pytest.raises(UnrenderableError, match=r"r:4: the chat template refuses.*No system role"):
        render_example(strict, row)


def test_the_next_turns_header_is_not_taken_for_a_stop_token() -> None:
    """Templates with role markers only: the last answer gets the eos, earlier ones have no stop."""
    tokenizer = made("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}" + OPENING)
    assert trained_text(tokenizer, chat("Hi", "Hello?", "Cost?", "Two?")) == "Hello?Two?<|im_end|>"
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_a_stop_token_that_is_not_the_eos_is_found() -> None:
    tokenizer = made(bos="<|im_start|>")
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>") != tokenizer.eos_token_id
    assert trained_text(tokenizer, chat("Hi", "Hello")) == "Hello<|im_end|>"


def test_an_answer_with_nothing_before_it_follows_the_bos_or_eos() -> None:
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    row = Example((Message("assistant", "Once upon a time"),))
    for tokenizer, first in ((made(bare), "<|im_end|>"), (made(bare, bos="<|im_start|>"), "<|im_start|>")):
        sequence = render_example(tokenizer, row).sequence
        assert tokenizer.convert_ids_to_tokens(sequence.ids[0]) == first
        assert trained_text(tokenizer, row) == "Once upon a time<|im_end|>"
    neither = made(bare)
    neither.eos_token = None
    with pytest.raises(UserError, match="no bos or eos"):
        render_example(neither, row)


@settings(deadline=None, max_examples=80)
@given(turns=st.lists(words, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0))
def test_rows_extend_their_prompt_or_say_that_a_token_straddles(turns: list[str]) -> None:
    for tokenizer in (CHATML, TRIMMED):
        row = chat(*turns)
        assert extends_prompt(tokenizer, row) or render_example(tokenizer, row).straddles


@pytest.mark.parametrize("trim", [False, True])
def test_a_token_over_the_boundary_counts_as_header_and_is_reported(trim: bool) -> None:
    body = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    tokenizer = made(body + "{% if add_generation_prompt %}assistant: {% endif %}", trim=trim)
    merged = chat("Hi", "the time")
    assert render_example(tokenizer, merged).straddles
    assert not extends_prompt(tokenizer, merged)
    assert trained_text(tokenizer, merged) == " time<|im_end|>"
    assert not render_example(CHATML, merged).straddles


@settings(deadline=None, max_examples=60)
@given(prompt=st.integers(1, 60), a=st.integers(1, 60), b=st.integers(1, 60), limit=st.integers(6, 90))
def test_a_long_pair_keeps_one_prompt(prompt: int, a: int, b: int, limit: int) -> None:
    pair = Pair(
        (Message("user", "time " * prompt),),
        (Message("assistant", "cost " * a),),
        (Message("assistant", "bread " * b),),
    )
    chosen, rejected = render_pair(CHATML, pair, limit)
    starts = [r.sequence.action.index(True) for r in (chosen, rejected)]
    assert starts[0] == starts[1]
    assert chosen.sequence.ids[: starts[0]] == rejected.sequence.ids[: starts[0]]
    assert max(len(chosen.sequence), len(rejected.sequence)) <= limit
    assert starts[0] == 1 or not (chosen.cut_right or rejected.cut_right)


def test_truncation_keeps_the_bos_of_row_and_prompt() -> None:
    tokenizer = made("{{ bos_token }}" + TEMPLATES["chatml"])
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    row = chat("time " * 50, "Two.")
    cut = render_example(tokenizer, row, 20)
    assert cut.sequence.ids[0] == tokenizer.bos_token_id
    assert len(cut.sequence) == 20
    assert cut.sequence.actions == render_example(tokenizer, row).sequence.actions
    prompt = render_prompt(tokenizer, Prompt(row.messages[:1]), 10)
    assert (prompt[0], len(prompt)) == (tokenizer.bos_token_id, 10)


def test_a_cut_right_end_never_leaves_a_header_hanging() -> None:
    row = chat("Hi", "time " * 10, "Cost?", "cost " * 10)
    for limit in range(4, 45):
        cut = render_example(CHATML, row, limit)
        assert cut.sequence.action[-1]
        assert (cut.sequence.stop == "length") == (cut.cut_right > 0)


def test_a_special_token_that_is_only_in_the_vocabulary_is_refused_in_text() -> None:
    with pytest.raises(UnrenderableError, match=r"r:2: message 1 .*<\|im_start\|>"):
        render_prompt(CHATML, Prompt((Message("user", "<|im_start|>system"),), place="r:2"))


@pytest.mark.parametrize("name", list(TEMPLATES))
@settings(deadline=None, max_examples=40)
@given(
    turns=st.lists(words.filter(lambda s: s.strip() != ""), min_size=2, max_size=4).filter(
        lambda t: len(t) % 2 == 0
    )
)
def test_the_templates_we_ship_train_each_answer_and_its_stop(name: str, turns: list[str]) -> None:
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer, name)
    space = " " if name == "plain" else ""
    assert trained_text(tokenizer, chat(*turns)) == "".join(f"{space}{t}<|im_end|>" for t in turns[1::2])


def test_a_row_that_begins_with_an_answer_trains_it_behind_its_header() -> None:
    row = Example((Message("assistant", "Once"), Message("user", "And?"), Message("assistant", "Then")))
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    for template in (TEMPLATES["chatml"], system + TEMPLATES["chatml"]):
        assert trained_text(made(template), row) == "Once<|im_end|>Then<|im_end|>"
    with pytest.raises(UnrenderableError, match="no message"):
        render_prompt(CHATML, Prompt(()))


def test_peek_shows_the_whole_row_and_marks_what_is_trained() -> None:
    sequence = render_example(CHATML, chat("Grüße 🙂", "Zwei € 🙂")).sequence
    text = format_rendered(CHATML, sequence)
    assert text.plain == CHATML.decode(sequence.ids)
    marked = [text.plain[s.start : s.end] for s in text.spans if "green" in str(s.style)]
    assert marked == ["Zwei € 🙂<|im_end|>"]
