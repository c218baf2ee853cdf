"""What is trained on is exactly the assistant's text and its stop token, whatever the template."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Message, Pair, Prompt
from rewardlab.data.rendering import render_example, render_pair, render_prompt, turn_end
from rewardlab.data.templates import TEMPLATES, ensure_chat_template
from support import tiny_tokenizer

CHATML = tiny_tokenizer()

DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    + TEMPLATES["chatml"]
)
THINKING = (  # like Qwen3: an empty thought before the last answer only, content stripped
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (  # like Llama 3: a BOS, header markers, no newline behind the end of a turn
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<|im_start|>\n\n{{ m.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>\n\n{% endif %}"
)
OPEN_END = (  # nothing behind an answer
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(CHATML)
    tokenizer.chat_template = template
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


TOKENIZERS = {
    "chatml": CHATML,
    "default system": with_template(DEFAULT_SYSTEM),
    "thinking": with_template(THINKING),
    "headers": with_template(HEADERS),
}
words = st.text(min_size=1, max_size=40).filter(lambda s: "<|" not in s and s.strip() != "")
conversations = st.lists(st.tuples(words, words), min_size=1, max_size=4)


def messages(turns: list[tuple[str, str]]) -> tuple[Message, ...]:
    return tuple(m for user, answer in turns for m in (Message("user", user), Message("assistant", answer)))


def trained_text(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    sequence = render_example(tokenizer, example).sequence
    ids = [i for i, a in zip(sequence.ids, sequence.action, strict=True) if a]
    return tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["chatml", "default system", "headers"])
@settings(deadline=None, max_examples=60)
@given(turns=conversations)
def test_trained_tokens_are_the_answers_and_their_stops(name: str, turns: list[tuple[str, str]]) -> None:
    text = trained_text(TOKENIZERS[name], Example(messages(turns)))
    assert text == "".join(f"{answer}<|im_end|>" for _, answer in turns)


@settings(deadline=None, max_examples=60)
@given(turns=conversations)
def test_what_the_template_writes_before_an_answer_is_trained_too(turns: list[tuple[str, str]]) -> None:
    """After the generation prompt the policy itself must write the empty thought."""
    text = trained_text(TOKENIZERS["thinking"], Example(messages(turns)))
    answers = [answer.strip() for _, answer in turns]
    answers[-1] = "<think>\n\n</think>\n\n" + answers[-1]
    assert text == "".join(f"{a}<|im_end|>" for a in answers)


@pytest.mark.parametrize("name", list(TOKENIZERS))
@settings(deadline=None, max_examples=60)
@given(turns=conversations)
def test_the_prompt_is_where_the_answer_begins(name: str, turns: list[tuple[str, str]]) -> None:
    """Ids given to the sampler are a prefix of the trained row, up to its first action of that turn."""
    tokenizer = TOKENIZERS[name]
    conversation = messages(turns)
    trained = tuple(i == len(conversation) - 1 for i in range(len(conversation)))
    sequence = render_example(tokenizer, Example(conversation, trained)).sequence
    prompt = render_prompt(tokenizer, Prompt(conversation[:-1]))
    assert sequence.ids[: len(prompt)] == tuple(prompt)
    assert sequence.action.index(True) == len(prompt)


def test_pad_equal_to_eos_still_trains_the_stop_token() -> None:
    assert CHATML.pad_token_id == CHATML.eos_token_id
    sequence = render_example(CHATML, Example(messages([("Hi", "Hello")]))).sequence
    stop = max(t for t, a in enumerate(sequence.action) if a)
    assert sequence.ids[stop] == CHATML.eos_token_id == turn_end(CHATML)


def test_an_empty_answer_trains_its_stop_token_only() -> None:
    assert trained_text(CHATML, Example(messages([("Hi", "")]))) == "<|im_end|>"


def test_a_template_without_a_stop_gets_the_eos() -> None:
    tokenizer = with_template(OPEN_END)
    assert trained_text(tokenizer, Example(messages([("Hi", "Hello")]))) == "Hello<|im_end|>"
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_train_all_is_every_token_but_the_first() -> None:
    sequence = render_example(CHATML, Example(messages([("Hi", "Hello")])), train_all=True).sequence
    assert sequence.action == (False, *(True,) * (len(sequence) - 1))


def test_untrained_rows_are_named() -> None:
    example = Example((Message("user", "Hi"),), place="rows.jsonl:7")
    with pytest.raises(UserError, match=r"rows.jsonl:7.*no token to train on"):
        render_example(CHATML, example)


def test_text_that_spells_a_special_token_is_refused() -> None:
    example = Example(messages([("Say <|im_end|>", "No")]), place="rows.jsonl:3")
    with pytest.raises(UserError, match=r"rows.jsonl:3.*special token"):
        render_example(CHATML, example)


def test_no_template_says_what_to_set() -> None:
    tokenizer = copy.deepcopy(CHATML)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="chat_template"):
        ensure_chat_template(tokenizer, None)
    ensure_chat_template(tokenizer, "plain")
    assert trained_text(tokenizer, Example(messages([("Hi", "Hello")]))) == " Hello<|im_end|>"


@settings(deadline=None, max_examples=60)
@given(user=st.integers(1, 60), answer=st.integers(1, 60), limit=st.integers(4, 80))
def test_truncation_drops_the_left_of_the_prompt_first(user: int, answer: int, limit: int) -> None:
    """Very long rows: the answer survives whole if it can; what was cut is counted."""
    example = Example(messages([("time " * user, "cost " * answer)]))
    whole, cut = render_example(CHATML, example), render_example(CHATML, example, limit)
    assert len(cut.sequence) == min(limit, len(whole.sequence))
    assert cut.cut_left + cut.cut_right == len(whole.sequence) - len(cut.sequence)
    actions = whole.sequence.actions
    if cut.cut_right == 0:
        assert cut.sequence.actions == actions
        assert cut.sequence.ids == whole.sequence.ids[cut.cut_left :]
    else:
        assert cut.sequence.stop == "length"
        assert cut.sequence.action.index(True) == 1


def test_both_answers_of_a_pair_share_the_prompt() -> None:
    prompt = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Cost?"))
    pair = Pair(prompt, (Message("assistant", "Two dollars."),), (Message("assistant", "No idea."),))
    chosen, rejected = (r.sequence for r in render_pair(CHATML, pair))
    start = len(render_prompt(CHATML, Prompt(prompt)))
    assert chosen.ids[:start] == rejected.ids[:start]
    assert not any(chosen.action[:start] + rejected.action[:start])
    assert chosen.action[start]
    assert rejected.action[start]
