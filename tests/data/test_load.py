"""Readers: every kind of row arrives, every bad one is named and counted, nothing is dropped silently."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message
from rewardlab.data.load import check_disjoint, read_examples, read_pairs, read_prompts
from rewardlab.data.rows import hh_messages
from rewardlab.data.settings import DataSettings

ROWS = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(20)]
HH = "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who is the Assistant: you?\n\nAssistant: Yes.\n\nMe."


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_the_same_rows_from_every_format(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "a.jsonl", ROWS)
    zipped = tmp_path / "b.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    parquet = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)
    found = [read_examples(DataSettings(source=str(f))).rows for f in (plain, zipped, parquet)]
    assert [e.messages for e in found[0]] == [e.messages for e in found[1]] == [e.messages for e in found[2]]
    assert found[0][3].messages == (Message("user", "Question 3?"), Message("assistant", "Answer 3."))
    assert found[0][3].place == f"{plain}:4"
    folder = read_examples(DataSettings(source=str(tmp_path)))
    assert (folder.read, len(folder.rows), folder.duplicates) == (60, 20, 40)


def test_a_bare_string_is_a_source() -> None:
    assert DataSettings.model_validate("x.jsonl").source == "x.jsonl"


def test_transcripts_keep_their_turns() -> None:
    turns = hh_messages(HH)
    assert [m.role for m in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[2].content == "Who is the Assistant: you?"
    assert turns[3].content == "Yes.\n\nMe."


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters=":\r"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=5,
    )
)
def test_transcripts_round_trip(contents: list[str]) -> None:
    names = ["Human", "Assistant"]
    text = "".join(f"\n\n{names[i % 2]}: {c.strip()}" for i, c in enumerate(contents))
    assert [m.content for m in hh_messages(text)] == [c.strip() for c in contents]


def test_pairs_in_the_common_forms(tmp_path: Path) -> None:
    rows = [
        {"prompt": "P?", "chosen": "good", "rejected": "bad", "margin": 2, "weight": 0.5},
        {"chosen": HH, "rejected": HH.replace("Yes.\n\nMe.", "No.")},
        {"prompt": "Q?", "output_1": "one", "output_2": "two", "preference": 2},
        {"prompt": "R?", "output_1": "one", "output_2": "two", "preference": 1.25},
        {"prompt": "S?", "response_a": "a", "response_b": "b", "label": "tie"},
        {"prompt": "T?", "response_a": "a", "response_b": "b", "label": "B>A"},
    ]
    pairs = read_pairs(DataSettings(source=str(jsonl(tmp_path / "p.jsonl", rows)))).rows
    assert [p.chosen[0].content for p in pairs] == ["good", "Yes.\n\nMe.", "two", "one", "a", "b"]
    assert [p.label for p in pairs] == [1.0, 1.0, 1.0, 0.75, 0.5, 1.0]
    assert (pairs[0].margin, pairs[0].weight) == (2.0, 0.5)
    assert len(pairs[1].prompt) == 3


def test_columns_reach_into_nested_objects(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "n.jsonl", [{"prompt": "P?", "meta": {"solution": "S."}, "answer": 4}])
    rows = read_examples(DataSettings(source=str(file), columns={"completion": "meta.solution"})).rows
    assert rows[0].messages[1].content == "S."
    assert read_prompts(DataSettings(source=str(file))).rows[0].meta["answer"] == 4


def test_completion_goes_before_a_messages_column(tmp_path: Path) -> None:
    row = {"prompt": "\n\nHuman: Hi", "messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello"}
    file = jsonl(tmp_path / "hh.jsonl", [row])
    rows = read_examples(DataSettings(source=str(file), columns={"completion": "chosen"})).rows
    assert rows[0].messages == (Message("user", "Hi"), Message("assistant", "Hello"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "not JSON"),
        ([1], "a JSON object is needed"),
        ({"prompt": "P?", "rejected": "b"}, r"no 'chosen' \(columns: prompt, rejected; map it"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": "P?", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "P?", "chosen": ["a"], "rejected": "b"}, "neither text nor"),
        ({"prompt": "P?", "chosen": "a", "rejected": "b", "weight": "x"}, "weight is not a finite number"),
        ({"prompt": "P?", "output_1": "a", "output_2": "b", "preference": None}, "preference is null"),
    ],
)
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"prompt": "P?", "chosen": "a", "rejected": "b"}
    file = jsonl(tmp_path / "bad.jsonl", [good, row])
    with pytest.raises(UserError, match=rf"bad\.jsonl:2: .*{reason}") as caught:
        read_pairs(DataSettings(source=str(file)))
    assert "on_bad_row" in str(caught.value)
    loaded = read_pairs(DataSettings(source=str(file), on_bad_row="skip"))
    assert (loaded.read, len(loaded.rows), len(loaded.bad)) == (2, 1, 1)
    assert loaded.facts()["bad_rows"][0].startswith(f"{file}:2: ")


def test_a_truncated_gz_says_where_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl.gz"
    noise = [{"prompt": f"{i * 7919 % 104729} ?", "completion": f"{i**5}"} for i in range(2000)]
    whole = gzip.compress("".join(json.dumps(r) + "\n" for r in noise).encode())
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz is damaged after line \d+"):
        read_examples(DataSettings(source=str(file)))


def test_a_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(UserError, match=r"Did you mean .*train\.jsonl"):
        read_examples(DataSettings(source=str(tmp_path / "trian.jsonl")))


def test_a_hub_id_that_cannot_be_reached_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nwith a long trace")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"hf:nobody/nothing could not be loaded \(Couldn't reach the Hub\)"):
        read_examples(DataSettings(source="hf:nobody/nothing"))


def test_without_the_hub_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'rewardlab\[datasets\]'"):
        read_examples(DataSettings(source="hf:nobody/nothing"))


def test_a_hub_dataset_reads_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    jsonl(folder / "train.jsonl", ROWS)
    jsonl(folder / "test.jsonl", ROWS[:4])
    train = read_examples(DataSettings(source=f"hf:{folder}"))
    assert [r.messages[0].content for r in train.rows] == [r["prompt"] for r in ROWS]
    test = read_examples(DataSettings(source=f"hf:{folder}:test"))
    assert test.rows[3].place == f"hf:{folder}:test:4"
    named = read_examples(DataSettings(source=f"hf:{folder}:default:test"))
    assert named.sha256 == test.sha256 != train.sha256


def test_a_parquet_file_that_is_none_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(UserError, match=r"x\.parquet is damaged after row 0"):
        read_examples(DataSettings(source=str(tmp_path)))


def test_a_gz_that_is_none_is_a_user_error(tmp_path: Path) -> None:
    jsonl(tmp_path / "x.jsonl.gz", ROWS)
    with pytest.raises(UserError, match=r"x\.jsonl\.gz is damaged after line 0 \(0 rows read\)"):
        read_examples(DataSettings(source=str(tmp_path)))


def test_a_source_without_usable_rows_gives_the_first_reason(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "P?"}, "\xff", "[" * 100_000])
    settings = DataSettings(source=str(file), on_bad_row="skip")
    with pytest.raises(UserError, match=r"no usable row \(3 read, 3 bad\).*no 'completion'"):
        read_examples(settings)


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0], {"prompt": "Question 0?", "completion": "Another answer."}, {"prompt": 3}]
    file = jsonl(tmp_path / "a.jsonl", rows)
    facts = read_examples(DataSettings(source=str(file), on_bad_row="skip", heldout_fraction=0.3)).facts()
    assert (facts["duplicates"], facts["bad"], facts["read"]) == (1, 1, 23)
    assert facts["rows"] + facts["held_out"] == 21
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@given(fraction=st.floats(0.05, 0.9))
def test_held_out_prompts_are_never_trained_on(
    fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [{"prompt": f"{i // 3}", "chosen": f"a{i}", "rejected": "b"} for i in range(90)]
    file = jsonl(tmp_path_factory.mktemp("held") / "p.jsonl", rows)
    loaded = read_pairs(DataSettings(source=str(file), heldout_fraction=fraction))
    assert len(loaded.rows) + len(loaded.held_out) == 90
    check_disjoint(loaded.rows, loaded.held_out)


def test_overlap_of_train_and_evaluation_is_refused(tmp_path: Path) -> None:
    train = read_examples(DataSettings(source=str(jsonl(tmp_path / "a.jsonl", ROWS)))).rows
    other = read_prompts(
        DataSettings(source=str(jsonl(tmp_path / "b.jsonl", [{"prompt": "Question 7?"}])))
    ).rows
    with pytest.raises(UserError, match=r"b\.jsonl:1 stands in the training data too, at .*a\.jsonl:8"):
        check_disjoint(train, other)


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    loaded = read_examples(DataSettings(source=str(jsonl(tmp_path / "a.jsonl", ROWS)), limit=3))
    assert [e.messages[0].content for e in loaded.rows] == [r["prompt"] for r in ROWS[:3]]
