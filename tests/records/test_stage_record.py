"""What a stage records: metrics survive torn lines, rollouts come back whole."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.records import rollouts
from rewardlab.records.run import Run
from rewardlab.records.stage import StageRecord

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy: speed is not what is tested."""


def rollout(text: str, score: Score | None) -> Rollout:
    prompt = Prompt((Message("user", "Hi"),), id="p1", meta={"answer": 3}, place="a.jsonl:1")
    sequence = Sequence((1, 2, 3), (False, True, True), (0.0, -0.25, -1.5), 0.7, 4, "stop")
    return Rollout(prompt, sequence, text, 2, score)


def test_rollouts_come_back_whole(tmp_path: Path) -> None:
    record = Run.open(tmp_path / "r", "name: r\n", seed=0).stage("grpo")
    rows = [
        rollout("a", Score(0.5, parts={"recall": 1.0, "wrong": -0.5})),
        rollout("b", Score.error("parser died")),
        rollout("c", Score.abstain("no opinion")),
        rollout("d", None),
    ]
    record.write_rollouts(3, rows, {"advantage": [1.0, 0.0, 0.0, -1.0]})
    back = record.read_rollouts(3)
    assert [r.sequence for r in back] == [r.sequence for r in rows]
    assert [r.prompt for r in back] == [r.prompt for r in rows]
    assert [r.score for r in back] == [r.score for r in rows]


def test_a_torn_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    record = Run.open(tmp_path / "r", "name: r\n", seed=0).stage("sft")
    for step in (1, 2, 3):
        record.metrics(step, loss=step / 3)
    file = record.folder / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 4, "lo')
    assert [row["step"] for row in record.read_metrics()] == [1, 2, 3]
    record.truncate_to(2)
    record.metrics(3, loss=9.0)
    assert [row["loss"] for row in record.read_metrics()] == [1 / 3, 2 / 3, 9.0]


def test_truncation_drops_later_rollouts(tmp_path: Path) -> None:
    record = Run.open(tmp_path / "r", "name: r\n", seed=0).stage("grpo")
    for step in (1, 2, 3):
        record.write_rollouts(step, [rollout("a", None)])
    record.truncate_to(1)
    assert [f.name for f in (record.folder / "rollouts").iterdir()] == ["000001.parquet"]


def stage(folder: Path) -> StageRecord:
    return StageRecord("sft", folder)


def test_every_cut_of_the_file_leaves_whole_lines_only(tmp_path: Path) -> None:
    whole = stage(tmp_path / "whole")
    for step in (1, 2, 3):
        whole.metrics(step, loss=step / 3)
    data = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    for length in range(len(data)):
        torn = stage(tmp_path / str(length))
        torn.folder.mkdir()
        file = torn.folder / "metrics.jsonl"
        file.write_bytes(data[:length])
        lines = data[:length].count(b"\n")
        assert torn.read_metrics() == whole.read_metrics()[:lines]
        torn.metrics(9, loss=0.5)
        assert torn.read_metrics() == [*whole.read_metrics()[:lines], {"step": 9, "loss": 0.5}]


def test_a_continued_record_has_the_same_bytes(tmp_path: Path) -> None:
    straight, killed = stage(tmp_path / "a"), stage(tmp_path / "b")
    for step in range(1, 7):
        straight.metrics(step, loss=1 / step, n=step)
        straight.write_rollouts(step, [rollout(str(step), None)])
    for step in range(1, 5):
        killed.metrics(step, loss=1 / step, n=step)
        killed.write_rollouts(step, [rollout(str(step), None)])
    again = stage(tmp_path / "b")
    again.truncate_to(2)
    for step in range(3, 7):
        again.metrics(step, loss=1 / step, n=step)
        again.write_rollouts(step, [rollout(str(step), None)])
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_damaged_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    record = stage(tmp_path)
    record.metrics(1, loss=1.0)
    file = tmp_path / "metrics.jsonl"
    file.write_text("{broken\n" + file.read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: not a line of metrics"):
        record.read_metrics()


def test_numbers_of_any_library_and_not_finite_ones(tmp_path: Path) -> None:
    record = stage(tmp_path)
    values = {"a": np.float32(0.5), "b": torch.tensor(2.0), "c": math.nan, "d": math.inf, "e": 3}
    record.metrics(1, **values)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert strict == {"step": 1, "a": 0.5, "b": 2.0, "c": None, "d": None, "e": 3}
    assert math.isnan(record.read_metrics()[0]["c"])


def test_a_full_disk_while_appending_keeps_the_lines_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up half-way through a line; after space was freed the record goes on whole."""
    record = stage(tmp_path)
    record.metrics(1, loss=1.0)
    real_open = Path.open

    def full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if mode == "a":
            with real_open(self, "a") as stream:
                stream.write('{"step": 2, "lo')
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(UserError, match="no space left"):
            record.metrics(2, loss=0.5)
    assert [row["step"] for row in record.read_metrics()] == [1]
    record.metrics(2, loss=0.5)
    assert [row["step"] for row in record.read_metrics()] == [1, 2]


text = st.text(max_size=6)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scores = st.one_of(
    st.none(),
    st.builds(Score.abstain, text),
    st.builds(Score.error, text),
    st.builds(
        Score,
        value=numbers,
        parts=st.dictionaries(text, numbers, max_size=3),
        tokens=st.none() | st.lists(numbers, max_size=3).map(tuple),
        uncertainty=st.none() | numbers,
    ),
)


@st.composite
def any_rollout(draw: st.DrawFn) -> Rollout:
    length = draw(st.integers(1, 4))
    many = lambda kind: tuple(draw(st.lists(kind, min_size=length, max_size=length)))  # noqa: E731
    sequence = Sequence(
        ids=many(st.integers(0, 2**20)),
        action=(False, *many(st.booleans())[1:]),
        logp=draw(st.none() | st.just(many(numbers))),
        temperature=draw(numbers),
        version=draw(st.integers(0, 99)),
        stop=draw(st.sampled_from(["stop", "length", "data"])),
    )
    messages = tuple(draw(st.lists(st.builds(Message, text, text), max_size=2)))
    meta = draw(st.dictionaries(text, st.integers() | text | st.lists(numbers, max_size=2), max_size=2))
    prompt = Prompt(messages, draw(text), meta, draw(text))
    return Rollout(prompt, sequence, draw(text), draw(st.integers(0, 9)), draw(scores))


@patient
@given(st.lists(any_rollout(), max_size=3))
def test_any_rollouts_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Rollout]) -> None:
    path = tmp_path_factory.mktemp("rows") / "000001.parquet"
    rollouts.write(rollouts.to_table(rows, {}), path)
    assert rollouts.read(path) == rows


def test_other_tools_read_all_steps_together(tmp_path: Path) -> None:
    record = stage(tmp_path)
    record.write_rollouts(1, [rollout("a", None)], {"advantage": [1]})
    record.write_rollouts(12, [rollout("b", Score(2.0, parts={"p": 1.0}))], {"advantage": [0.5]})
    record.write_rollouts(3, [], {"advantage": []})
    assert record.rollout_steps() == [1, 3, 12]
    table = pyarrow.dataset.dataset(tmp_path / "rollouts").to_table(columns=["score", "advantage"])
    assert table.to_pydict() == {"score": [None, 2.0], "advantage": [1.0, 0.5]}
    assert pyarrow.parquet.read_table(tmp_path / "rollouts" / "000012.parquet")["part.p"].to_pylist() == [1.0]


def test_columns_must_fit(tmp_path: Path) -> None:
    record = stage(tmp_path)
    with pytest.raises(ValueError, match="taken"):
        record.write_rollouts(1, [rollout("a", None)], {"score": [1.0]})
    with pytest.raises(ValueError, match="2 values for 1 rollouts"):
        record.write_rollouts(1, [rollout("a", None)], {"advantage": [1.0, 2.0]})
