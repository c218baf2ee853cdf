"""The advice language: what is written is read back exactly, and any text can be read."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from rewardlab.worlds.advice.language import (
    TABLE,
    WORDS_PER_NOISE,
    Sentence,
    every_sentence,
    parse,
    render,
    render_sentence,
)
from rewardlab.worlds.advice.topics import ASPECTS

SENTENCES = every_sentence()
answers = st.lists(st.sampled_from(SENTENCES), max_size=12).map(tuple)


@given(answers)
def test_reading_gives_back_what_was_written(sentences: tuple[Sentence, ...]) -> None:
    assert parse(render(sentences)) == sentences


@given(st.text())
@example("")
@example("...")
@example("\ud800 lone surrogate.")
@example("The cost is about ten dollars")
def test_any_text_can_be_read_and_reading_is_stable(text: str) -> None:
    sentences = parse(text)
    assert parse(render(sentences)) == sentences
    assert (sentences == ()) == (not text.split())


@given(answers, st.text(alphabet=st.characters(exclude_characters=".!?"), max_size=40), answers)
def test_unreadable_text_is_counted_and_does_not_hide_its_neighbours(
    before: tuple[Sentence, ...], junk: str, after: tuple[Sentence, ...]
) -> None:
    junk += "zz."
    noise = -(-len(junk.split()) // WORDS_PER_NOISE)
    read = parse(f"{render(before)} {junk} {render(after)}")
    assert read[: len(before)] == before
    assert [s.kind for s in read[len(before) : len(read) - len(after)]] == ["noise"] * noise
    assert read[len(read) - len(after) :] == after


def test_a_changed_letter_or_a_missing_full_stop_is_noise() -> None:
    for text in (
        "The cost is about Ten dollars.",
        "The cost is about ten dollars",
        "the cost is about ten dollars.",
    ):
        assert [s.kind for s in parse(text)] == ["noise"]
    assert parse("  The cost is\nabout  ten dollars. ") == (Sentence("fact", "cost", "ten dollars", 0),)


def test_a_run_on_is_one_noise_sentence_per_twelve_words() -> None:
    assert len(parse("word " * 60)) == 5
    assert len(parse("word " * 60 + "The cost is about ten dollars.")) == 6


def test_every_string_has_one_reading_and_is_short() -> None:
    assert len(TABLE) == len(SENTENCES)
    lengths = [len(render_sentence(s).split()) for s in SENTENCES]
    assert min(lengths) >= 5
    assert max(lengths) <= 10


def test_a_fact_names_its_aspect_and_its_value() -> None:
    for sentence in SENTENCES:
        if sentence.kind == "fact":
            text = render_sentence(sentence)
            assert sentence.aspect in text
            assert sentence.value in text


def test_aspects_have_closed_sets_of_8_to_20_distinct_values() -> None:
    assert len(ASPECTS) == 8
    assert all(8 <= len(set(values)) == len(values) <= 20 for values in ASPECTS.values())
