"""Process rewards: step ends by place, a loss on labelled steps alone, four ways to put steps together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Steps
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.load import read_steps
from rewardlab.data.rendering import render_steps
from rewardlab.data.settings import DataSettings
from rewardlab.data.steps import JOINERS, split_steps
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.records.run import Run, StageRecord
from rewardlab.rewards.process import Aggregation, ProcessReward, aggregate
from rewardlab.training.algorithms.process_reward import ProcessRewardModelling, StepRow, pack_steps
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings
from rewardlab.worlds.advice import AdviceWorld
from support import tiny_reward_model

MODEL = tiny_reward_model("qwen3")
ASK = (Message("user", "How do I bake bread?"),)
UNSAMPLED = Tokens((0,), (False,))


def answer(text: str) -> Rollout:
    return Rollout(Prompt(ASK, place="a.jsonl:1"), UNSAMPLED, text)


def rendered(steps: tuple[str, ...], joiner: str, max_tokens: int | None = None) -> tuple[Tokens, list[int]]:
    row = Steps(ASK, steps, (1.0,) * len(steps))
    found, ends = render_steps(MODEL.tokenizer, row, joiner, max_tokens)
    return found.sequence, ends


word = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"], blacklist_characters="<|>"), min_size=1)
step = st.lists(word, min_size=1, max_size=4).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(step, min_size=1, max_size=5), joiner=st.sampled_from(list(JOINERS.values())))
def test_a_step_ends_at_the_token_that_holds_its_last_character(steps: list[str], joiner: str) -> None:
    """Decoded up to a step's end the answer holds the whole step; without that token it does not."""
    sequence, ends = rendered(tuple(steps), joiner)
    first = sequence.action.index(True)
    assert ends == sorted(set(ends))
    assert len(ends) == len(steps)
    for k, end in enumerate(ends):
        whole = joiner.join(steps[: k + 1])
        text = MODEL.tokenizer.decode(sequence.ids[first : end + 1])
        assert text.startswith(whole)
        assert text.strip() == whole.strip()
        assert len(MODEL.tokenizer.decode(sequence.ids[first:end], errors="ignore").rstrip("\ufffd")) < len(
            whole
        )


def test_steps_beyond_the_token_limit_have_no_place() -> None:
    steps = ("The time you need is ten minutes.", "The cost is about two dollars.", "I am not sure.")
    whole, all_ends = rendered(steps, "\n")
    answer_tokens = whole.actions
    cut, ends = rendered(steps, "\n", max_tokens=answer_tokens)  # all but one prompt token are gone
    assert [cut.ids[e] for e in ends] == [whole.ids[e] for e in all_ends[: len(ends)]]
    assert 0 < len(ends) <= 3
    _, few = rendered(steps, "\n", max_tokens=answer_tokens // 2)
    assert len(few) == 1


@settings(deadline=None, max_examples=15)
@given(
    texts=st.lists(step, min_size=1, max_size=4),
    budget=st.integers(1, 200),
    layout=st.sampled_from(["padded", "packed"]),
)
def test_a_score_depends_on_its_own_text_alone(texts: list[str], budget: int, layout: str) -> None:
    rows = [answer(f"{t}. Then {t}!") for t in texts]
    engine = Engine(MODEL, EngineSettings(tokens_per_microbatch=budget, layout=layout))
    together = [s.value for s in ProcessReward("prm", engine).score(rows)]
    alone = [ProcessReward("prm", Engine(MODEL)).score([r])[0].value for r in rows]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_step_score_is_what_the_head_says_of_the_answer_so_far() -> None:
    """A sequence-classification model of the same ids, cut behind the step, gives the same score."""
    engine = Engine(MODEL)
    steps = ("The time you need is ten minutes.", "The cost is about two dollars.")
    sequence, ends = rendered(steps, " ")
    (score,) = ProcessReward("prm", engine, aggregation="last").score([answer(" ".join(steps))])
    alone = []
    for end in ends:
        prefix = Tokens(sequence.ids[: end + 1], (False,) * (end + 1))
        batch = pack_steps([StepRow(prefix, (), ())])
        alone.append(float(torch.sigmoid(engine.frozen_scores(batch))))
    assert score.value == pytest.approx(alone[1], abs=1e-6)
    assert score.parts == pytest.approx(
        {
            "min": min(alone),
            "mean": sum(alone) / 2,
            "product": math.prod(alone),
            "last": alone[1],
            "steps": 2.0,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(("how", "value"), [("min", 0.2), ("mean", 0.5), ("product", 0.08), ("last", 0.5)])
def test_aggregation_by_hand(how: Aggregation, value: float) -> None:
    assert aggregate([0.8, 0.2, 0.5], how) == pytest.approx(value)


def test_answers_without_steps_abstain_and_broken_ones_err_alone() -> None:
    rows = [
        answer("  \n "),
        answer("Fine."),
        answer("a <|im_end|> inside."),
        answer("word " * 200 + ". Two."),
    ]
    scores = ProcessReward("prm", Engine(MODEL), max_tokens=120).score(rows)
    assert [s.status for s in scores] == ["abstain", "ok", "error", "error"]
    assert "beyond max_tokens" in scores[3].reason


def test_splitting() -> None:
    assert split_steps("One two. Three? 4.5 is  a number!\nEnd", "sentence") == (
        "One two.",
        "Three?",
        "4.5 is  a number!",
        "End",
    )
    assert split_steps("a b\n\n c\n", "line") == ("a b", "c")
    assert split_steps("a\nb\n \nc", "paragraph") == ("a\nb", "c")


def test_the_loss_reads_labelled_step_ends_alone() -> None:
    """Three labelled steps of four: the mean cross-entropy over those three, by hand."""
    sequence, ends = rendered(("Bake it.", "Wait a bit.", "Eat it."), "\n")
    other, (end,) = rendered(("Bread is good.",), "\n")
    rows = [StepRow(sequence, tuple(ends), (1.0, 0.0, None)), StepRow(other, (end,), (0.25,))]
    algorithm = ProcessRewardModelling(Engine(MODEL), rows, rows, rows_per_step=2, seed=0)
    batch = pack_steps(rows)
    assert batch.counts()["token"] == 3
    with torch.no_grad():
        scores = algorithm.engine.token_scores(batch).token_scores
    start = len(sequence)
    s = [float(scores[i]) for i in (ends[0], ends[1], start + end)]

    def loss(x: float, y: float) -> float:
        return y * math.log1p(math.exp(-x)) + (1 - y) * math.log1p(math.exp(x))

    by_hand = (loss(s[0], 1) + loss(s[1], 0) + loss(s[2], 0.25)) / 3
    right = ((s[0] > 0) + (s[1] < 0) + (s[2] < 0)) / 3
    found = algorithm.evaluate()
    assert found["eval_loss"] == pytest.approx(by_hand, abs=1e-5)
    assert found["eval_accuracy"] == pytest.approx(right, abs=1e-6)


def steps_file(folder: Path, *rows: str) -> DataSettings:
    file = folder / "steps.jsonl"
    file.write_text("\n".join(rows) + "\n")
    return DataSettings(source=str(file))


def test_rows_from_a_file(tmp_path: Path) -> None:
    source = steps_file(
        tmp_path,
        '{"prompt": "p", "steps": ["a", "b", "c"], "first_error_step": 1, "id": "x"}',
        '{"prompt": "p", "steps": ["a", " ", "c"], "first_error_step": null}',
        '{"prompt": "p", "steps": ["a", "b"], "labels": [true, 0.5]}',
        '{"prompt": "q", "steps": ["a", "b"], "labels": [null, 0]}',
    )
    loaded = read_steps(source)
    assert [r.labels for r in loaded.rows] == [(1.0, 0.0, None), (1.0, 1.0), (1.0, 0.5), (None, 0.0)]
    assert loaded.rows[1].steps == ("a", "c")
    assert loaded.rows[0].meta == {"id": "x"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "p", "steps": ["a"], "first_error_step": 1}', "first_error_step is not the 0-based"),
        ('{"prompt": "p", "steps": ["a"], "first_error_step": -1}', "first_error_step is not the 0-based"),
        ('{"prompt": "p", "steps": ["a"], "labels": [1, 0]}', "not a list of 1 labels"),
        ('{"prompt": "p", "steps": ["a"], "labels": [-1]}', "a label is not true, false"),
        ('{"prompt": "p", "steps": "a", "labels": [1]}', "steps is not a list of texts"),
        ('{"prompt": "p", "steps": [], "labels": []}', "no step has a label"),
        ('{"prompt": "p", "steps": ["a"]}', "no 'labels'"),
    ],
)
def test_bad_rows_are_named(row: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"steps.jsonl:1: .*{reason}"):
        read_steps(steps_file(tmp_path, row))


def test_the_world_labels_a_sentence_by_what_gold_charges_for_it() -> None:
    world = AdviceWorld()
    rows = world.steps(150, split="train", seed=3)
    labels = [y for r in rows for y in r.labels]
    assert 0.2 < sum(labels) / len(labels) < 0.8
    for row in rows:
        prompt = Prompt(row.prompt, meta=row.meta)
        good = " ".join(s for s, y in zip(row.steps, row.labels, strict=True) if y)
        told = world.behaviour(good, prompt)
        assert told["wrong_facts"] == told["fillers"] == told["unrequested_facts"] == 0
        score = world.gold.score_text(" ".join(row.steps), row.meta)
        charged = ("wrong", "filler", "opener", "closer", "unrequested", "repeated", "noise")
        free = not any(score.parts[k] for k in charged)
        assert free == all(row.labels) or score.parts["hedge"] < 0.25
    assert rows[:20] == world.steps(20, split="train", seed=3)


def record(folder: Path) -> StageRecord:
    return Run.open(folder / "run", "name: t\n", seed=0).stage("prm")


class KilledError(Exception):
    """Stands in for kill -9."""


def modelling() -> ProcessRewardModelling:
    model = tiny_reward_model("qwen3")
    rows = []
    for row in AdviceWorld().steps(12, split="train", seed=0):
        found, ends = render_steps(model.tokenizer, row, " ")
        rows.append(StepRow(found.sequence, tuple(ends), row.labels))
    return ProcessRewardModelling(Engine(model), rows, rows[:3], rows_per_step=3, seed=0)


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    loop = LoopSettings(steps=4, checkpoint_every=2, optimiser=OptimiserSettings(learning_rate=3e-3))

    def die(step: int, _: Mapping[str, float]) -> None:
        if step == 3:
            raise KilledError

    whole, cut, resumed = modelling(), modelling(), modelling()
    train(whole, loop, record(tmp_path / "whole"))
    with pytest.raises(KilledError):
        train(cut, loop, record(tmp_path / "cut"), callbacks=(die,))
    train(resumed, loop, record(tmp_path / "cut"))
    for name, p in whole.engine.parameters.items():
        assert torch.equal(p, resumed.engine.parameters[name]), name
