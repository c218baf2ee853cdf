"""Each hybrid through a recipe: its schedule as logged, what it imitates, and its loss however it is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from rewardlab.core.batch import Batch
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.reduction import reduce
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from rewardlab.training.algorithms.hybrid import Hybrid
from rewardlab.training.algorithms.hybrid_settings import HybridSettings
from rewardlab.training.experience import Experience
from support import tiny_policy

TINY = {
    "kind": "hybrid",
    "name": "it",
    "data": {"source": "world", "rows": 16},
    "reward": "length",
    "prompts_per_step": 4,
    "samples_per_prompt": 4,
    "max_new_tokens": 16,
    "train_truncated": True,
    "steps": 5,
    "checkpoint_every": 5,
    "optimiser": {"learning_rate": 1e-3, "schedule": "constant"},
}
FALLING = {"peak": 0.8, "end": 0.2, "decay_steps": 2, "shape": "linear"}
CASES: dict[str, dict[str, Any]] = {
    "chord": {"method": "chord", "weight": {**FALLING, "start": 0.0, "warmup_steps": 2}},
    "chord_phi": {"method": "chord", "probability_power": 1.0, "probability_complement": 1.0},
    "hpt": {"method": "hpt", "correct_at": 12.0},
    "uft": {"method": "uft", "hint": {"peak": 1.0, "end": 0.0, "decay_steps": 3}},
    "prefix": {"method": "prefix", "hint": 0.5},
    "kdrl": {"method": "kdrl", "teacher": "embedded:advice-base", "weight": FALLING, "teach": "failures"},
}


def run(folder: Path, change: dict[str, Any]) -> list[dict[str, float]]:
    file = folder / "recipe.yaml"
    whole = {"name": "h", "model": "embedded:advice-base", "world": {}, "stages": [{**TINY, **change}]}
    file.write_text(yaml.safe_dump(whole))
    run_recipe(load_settings(Recipe, file, []).value, folder / "run")
    return StageRecord("it", folder / "run" / "stages" / "it").read_metrics()


@pytest.mark.parametrize("name", list(CASES))
def test_a_hybrid_trains_through_a_recipe(tmp_path: Path, name: str) -> None:
    rows = run(tmp_path, CASES[name])
    assert len(rows) == 5
    assert rows[-1]["skipped_updates"] == 0
    assert all(r["grad_norm"] > 0 for r in rows)
    if name == "chord":
        assert [r["weight_sft"] for r in rows] == pytest.approx([0.0, 0.4, 0.8, 0.5, 0.2])
        for r in rows:
            assert r["weight_rl"] == pytest.approx(1 - r["weight_sft"])
            expected = r["weight_rl"] * r["rl/pg"] + r["weight_sft"] * r["sft/weighted_nll"]
            assert r["loss"] == pytest.approx(expected, abs=1e-5)
    elif name == "chord_phi":
        assert all(0 < r["sft/weight"] <= 0.25 for r in rows)  # the largest p (1 - p)
    elif name == "uft":
        assert rows[0]["hint_share"] > 0.9  # all but the last token
        assert rows[0]["hint_share"] > rows[2]["hint_share"] > 0
        assert rows[3]["hint_share"] == rows[4]["hint_share"] == 0
        assert rows[0]["sft/nll"] > 0
    elif name == "prefix":
        assert all(0.5 / 4 * 0.8 < r["hint_share"] < 0.95 / 4 for r in rows)  # one answer of four
    elif name == "kdrl":
        assert [r["weight_teacher"] for r in rows] == pytest.approx([0.8, 0.5, 0.2, 0.2, 0.2])
        assert rows[0]["rl/drift"] == pytest.approx(0.0, abs=1e-4)
        assert rows[0]["teacher/teacher_gap"] == pytest.approx(0.0, abs=1e-3)  # it starts as the policy


@pytest.mark.parametrize("change", [{"method": "chord", "weight": 1.0}, {"method": "hpt", "correct_at": 1e9}])
def test_imitation_alone_brings_the_demonstrations_nearer(tmp_path: Path, change: dict[str, Any]) -> None:
    rows = run(tmp_path, {**change, "data": {"source": "world", "rows": 4}})
    nll = [r["sft/nll"] for r in rows]
    assert nll[-1] < nll[0]
    assert rows[0]["imitated_prompts"] == 1.0


PROMPTS = [Prompt((Message("user", f"Question {i}"),), id=str(i)) for i in range(4)]
IDS = [[5, 9, 11], [7, 8], [40, 41, 42], [12]]
SHOWN = [Sequence((*ids, 20 + i, 21, 22, 3), (*(False for _ in ids), True, True, True, True))
         for i, ids in enumerate(IDS)]  # fmt: skip


class Parity:
    """Right where the ids add up to an even number; the prompt 0 is never answered right."""

    name = "parity"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score(float(sum(r.sequence.ids) % 2 == 0 and r.prompt.id != "0")) for r in rollouts]


def hybrid(**knobs: Any) -> Hybrid:
    engine = Engine(tiny_policy("qwen3"), EngineSettings(**knobs.pop("engine", {})))
    common = {"prompts_per_step": 4, "samples_per_prompt": 3, "max_new_tokens": 5, "train_truncated": True}
    s = HybridSettings(**common | {"temperature": 0.7} | knobs)
    experience = Experience(engine, PROMPTS, IDS, Parity(), s, prompts_at_once=4, seed=1)
    if s.method == "kdrl":
        return Hybrid(engine, experience, s, teacher=Engine(tiny_policy("qwen3", seed=1)))
    return Hybrid(engine, experience, s, SHOWN)


def loss_and_gradient(made: Hybrid, batch: Batch, split: list[list[int]]) -> tuple[float, torch.Tensor]:
    """Of a step cut into these micro-batches."""
    for p in made.engine.parameters.values():
        p.grad = None
    total, counts = 0.0, batch.counts()
    for rows in split:
        micro = batch.select(rows)
        loss = reduce(made.objective(made.compute(micro), micro), counts)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in made.engine.parameters.values() if p.grad is not None])


METHODS: dict[str, dict[str, Any]] = {
    "chord": {"weight": 0.3},
    "hpt": {},
    "uft": {"weight": 0.5, "hint": 0.6},
    "prefix": {"hint": 0.4, "prefix_high": 0.9},
    "kdrl": {"weight": 0.3, "teach": "failures"},
}


@pytest.mark.parametrize("method", list(METHODS))
def test_split_order_and_layout_change_nothing(method: str) -> None:
    made = hybrid(method=method, **METHODS[method])
    (batch,), _ = made.batches(0)
    with torch.no_grad():  # away from the sampler, so that every ratio matters
        for p in made.engine.parameters.values():
            p.mul_(1.02)
    whole = list(range(batch.size))
    expected, gradient = loss_and_gradient(made, batch, [whole])
    assert gradient.norm() > 0
    order = np.random.default_rng(0).permutation(batch.size).tolist()
    for split in ([[i] for i in whole], [order], [order[:5], order[5:]]):
        found, its_gradient = loss_and_gradient(made, batch, split)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-3, atol=1e-5)
    for layout in ("padded", "packed", "tree"):
        other = hybrid(method=method, **METHODS[method], engine={"layout": layout})
        other.weights = made.weights
        with torch.no_grad():
            for p in other.engine.parameters.values():
                p.mul_(1.02)
        found, its_gradient = loss_and_gradient(other, batch, [whole])
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-3, atol=1e-5)


def test_the_gate_imitates_failed_prompts_and_reinforces_the_others() -> None:
    (batch,), numbers = hybrid(method="hpt").batches(0)
    for g in range(4):
        rows = [i for i in range(batch.size) if batch.group[i] == g]
        *samples, demonstration = rows
        right = sum(float(batch.reward[i]) for i in samples) > 0
        assert bool((batch.streams["weight_rl"][batch.tokens_of(samples)] > 0).any()) == right
        assert bool((batch.streams["weight_sft"][batch.tokens_of([demonstration])] > 0).any()) != right
    assert 0 < numbers["imitated_prompts"] < 1


def test_a_hint_is_imitated_and_not_reinforced() -> None:
    made = hybrid(method="uft", hint=1.0)
    (batch,), numbers = made.batches(0)
    chosen = made.experience.rows.indices(0)
    assert numbers["hint_share"] == 3 / 4  # all but the last token
    for i in range(batch.size):
        at = batch.tokens_of([i])
        hint = at[batch.streams["weight_sft"][at] > 0]
        assert batch.ids[hint].tolist() == list(SHOWN[chosen[i // 3]].ids[-4:-1])
        assert not batch.streams["own"][hint].any()
        assert bool((batch.streams["temperature"][hint] == 1.0).all())  # NLL of the policy as it is
        assert not batch.streams["weight_rl"][hint].any()


@pytest.mark.parametrize("method", ["chord", "prefix"])
def test_a_restored_run_continues_with_the_same_batch(method: str) -> None:
    first, second = (hybrid(method=method, **METHODS[method]) for _ in range(2))
    first.batches(0)
    second.load_state(first.state())
    (a,), numbers_a = first.batches(1)
    (b,), numbers_b = second.batches(1)
    assert numbers_a == numbers_b
    assert a.ids.equal(b.ids)
    assert all(x.equal(b.streams[name]) for name, x in a.streams.items())


def test_the_reward_reads_the_hint_with_the_answer() -> None:
    made = hybrid(method="uft", hint=1.0)
    rollouts = made.experience.collect(0, hints=[[20, 21]] * 12)
    decode = made.engine.model.tokenizer.decode
    for r in rollouts:
        assert r.text.startswith(decode([20, 21], skip_special_tokens=True))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "chord", "weight": 1.5},
        {"method": "chord", "hint": 0.5},
        {"method": "hpt", "weight": 0.5},
        {"method": "uft", "loss": "gvpo"},
        {"method": "uft", "updates_per_step": 2},
    ],
)
def test_settings_that_do_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HybridSettings(**change)
