"""Log-probs of the starting policy are computed in the first run and read in the next, with the same bits."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import LoraSettings, add_lora
from rewardlab.models.reference_cache import ReferenceCache
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from rewardlab.training.reference import sequence_logprobs
from support import tiny_policy

ROWS = [
    Sequence(tuple(range(3 + i, 12 + 2 * i)), tuple(j > 2 for j in range(9 + i)), temperature=t)
    for i, t in enumerate((1.0, 1.0, 0.7, 1.0))
]
STAGES = {
    "dpo": {"kind": "dpo", "pairs_per_step": 6},
    "kto": {"kind": "kto", "answers_per_step": 6},
    "sft": {"kind": "sft", "rows_per_step": 6, "loss": "minor_sft"},
}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of sequences of every gradient-free pass for log-probs."""
    found: list[int] = []
    plain = Engine.frozen_logprobs

    def counted(self: Engine, batch: Batch, *, entropy: bool = False) -> Outputs:
        found.append(batch.size)
        return plain(self, batch, entropy=entropy)

    monkeypatch.setattr(Engine, "frozen_logprobs", counted)
    return found


def train(folder: Path, name: str, stage: dict[str, Any], **top: Any) -> list[dict[str, float]]:
    data = {"source": "world", "rows": 16, "heldout_fraction": 0.25}
    common = {"data": data, "steps": 3, "checkpoint_every": 3, "name": "it"}
    recipe = {"name": name, "model": "embedded:advice-base", "world": {}, **top}
    whole = {**recipe, "stages": [{**common, **stage}]}
    run_recipe(load_settings(Recipe, whole, []).value, folder / name)
    rows = StageRecord("it", folder / name / "stages" / "it").read_metrics()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def own_passes(kind: str) -> list[int]:
    """kto alone measures its own drift: at each of three steps, and on the ten held-out answers."""
    return [6, 6, 6, 10] if kind == "kto" else []


@pytest.mark.parametrize("kind", STAGES)
def test_the_second_run_computes_no_reference(tmp_path: Path, passes: list[int], kind: str) -> None:
    first = train(tmp_path, "first", STAGES[kind])
    assert len(passes) > len(own_passes(kind))
    passes.clear()
    second = train(tmp_path, "second", STAGES[kind])
    assert passes == own_passes(kind)
    assert second == first


def test_a_recipe_without_a_cache_has_the_same_numbers_and_writes_none(tmp_path: Path) -> None:
    kept = train(tmp_path / "a", "run", STAGES["dpo"])
    assert train(tmp_path / "b", "run", STAGES["dpo"], reference_cache=None) == kept
    assert (tmp_path / "a" / ".cache" / "logp_ref").is_dir()
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["run"]


def logprobs(engine: Engine, folder: Path, rows: Rows[Sequence] = ROWS) -> list[Tensor]:
    return sequence_logprobs(engine, rows, cache=ReferenceCache(folder, engine))


def test_only_unknown_sequences_are_computed(tmp_path: Path, passes: list[int]) -> None:
    engine = Engine(tiny_policy())
    logprobs(engine, tmp_path, ROWS[:2])
    found = logprobs(engine, tmp_path)
    assert passes == [2, 2]
    plain = given(engine.frozen_logprobs(Batch.pack(ROWS)).logp)
    torch.testing.assert_close(torch.cat(found), plain, rtol=0, atol=1e-5)


def test_a_killed_run_reads_the_chunks_that_were_written(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardlab.training.reference.ROWS_AT_ONCE", 2)
    engine = Engine(tiny_policy())
    whole = logprobs(engine, tmp_path / "whole")
    logprobs(engine, tmp_path / "killed", ROWS[:2])
    passes.clear()
    again = logprobs(engine, tmp_path / "killed")
    assert passes == [2]
    assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))


@pytest.mark.parametrize("change", ["weights", "config", "precision", "temperature", "action", "ids"])
def test_whatever_changes_the_numbers_is_part_of_the_key(tmp_path: Path, change: str) -> None:
    model = tiny_policy()
    cache = ReferenceCache(tmp_path, Engine(model))
    row = ROWS[0]
    cache.add([row], [torch.ones(len(row))])
    settings = EngineSettings(precision="bf16") if change == "precision" else EngineSettings()
    if change == "weights":
        with torch.no_grad():
            model.net.get_parameter("model.norm.weight")[0] += 1e-6
    elif change == "config":
        model.hf.config.rms_norm_eps *= 2
    elif change == "temperature":
        row = replace(row, temperature=0.5)
    elif change == "action":
        row = replace(row, action=(False,) * (len(row) - 1) + (True,))
    elif change == "ids":
        row = replace(row, ids=(0, *row.ids[1:]))
    assert ROWS[0] in ReferenceCache(tmp_path, Engine(tiny_policy()))
    assert row not in ReferenceCache(tmp_path, Engine(model, settings))


def test_fresh_adapters_of_any_seed_share_a_cache_and_trained_ones_do_not(tmp_path: Path) -> None:
    def adapted(seed: int) -> Engine:
        return Engine(add_lora(tiny_policy(), LoraSettings(rank=2), reward_head=False, seed=seed))

    logprobs(adapted(0), tmp_path)
    other = adapted(1)
    assert ROWS[0] in ReferenceCache(tmp_path, other)
    name = next(k for k in other.parameters if "lora_B" in k)
    with torch.no_grad():
        other.parameters[name].fill_(0.1)
    assert ROWS[0] not in ReferenceCache(tmp_path, other)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_is_named_and_computed_anew(
    tmp_path: Path, passes: list[int], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    engine = Engine(tiny_policy())
    first = logprobs(engine, tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    with caplog.at_level(logging.WARNING):
        again = logprobs(engine, tmp_path)
    assert [str(file) in r.getMessage() for r in caplog.records] == [True]
    assert len(passes) == 2
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    logprobs(engine, tmp_path)
    assert len(passes) == 2  # the file was replaced by a sound one
