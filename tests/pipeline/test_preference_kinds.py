"""kto, orpo, simpo and every preference loss by name: five steps through a recipe, and the margin moves."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.preference import LossName
from rewardlab.objectives.reduction import reduce
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from rewardlab.training.algorithms.kto import KTO, AnswerRow, KTOSettings
from support import tiny_policy

TINY = {
    "data": {"source": "world", "rows": 24, "heldout_fraction": 0.25},
    "steps": 5,
    "checkpoint_every": 5,
    "optimiser": {"learning_rate": 1e-3, "schedule": "constant", "warmup_fraction": 0},
}


def run(folder: Path, stage: dict[str, Any], **top: Any) -> list[dict[str, float]]:
    file = folder / "recipe.yaml"
    whole = {
        "name": "kinds", "model": "embedded:advice-base", "world": {}, **top,
        "stages": [{**TINY, **stage, "name": "it"}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(whole))
    run_recipe(load_settings(Recipe, file, []).value, folder / "run")
    return StageRecord("it", folder / "run" / "stages" / "it").read_metrics()


@pytest.mark.parametrize("loss", get_args(LossName))
def test_every_loss_trains_and_its_pairs_come_apart(tmp_path: Path, loss: str) -> None:
    """One fixed step of all rows: five updates on the same pairs lower the loss on them."""
    # losses whose own scale is steeper take a smaller step
    rate = 1e-4 if loss in ("ipo", "sppo_hard", "simpo", "hinge") else 1e-3
    stage = {"kind": "dpo", "loss": loss, "pairs_per_step": 18, "optimiser": {"learning_rate": rate}}
    rows = run(tmp_path, stage)
    assert rows[-1]["skipped_updates"] == 0
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("kind", ["orpo", "simpo"])
def test_the_presets_need_no_reference(tmp_path: Path, kind: str) -> None:
    rows = run(tmp_path, {"kind": kind, "pairs_per_step": 18, "optimiser": {"learning_rate": 1e-4}})
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] >= rows[0]["accuracy"]


def test_kto_from_pairs(tmp_path: Path) -> None:
    rows = run(tmp_path, {"kind": "kto", "answers_per_step": 36})
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-5)  # nothing has moved: sigmoid(0)
    assert rows[0]["kl_baseline"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.5
    assert "eval_loss" in rows[-1]


def judged(folder: Path, labels: list[object]) -> None:
    with gzip.open(folder / "judged.jsonl.gz", "wt") as out:
        for i, label in enumerate(labels):
            row = {"prompt": f"Question {i}?", "completion": f"Answer {i}.", "label": label}
            out.write(json.dumps(row) + "\n")


def test_kto_from_judged_rows(tmp_path: Path) -> None:
    judged(tmp_path, [True, False, 1, 0, True, False])
    stage = {
        "kind": "kto", "rows_are": "judged", "answers_per_step": 6, "data": {"source": "judged.jsonl.gz"}
    }  # fmt: skip
    rows = run(tmp_path, stage, data_root=str(tmp_path))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_row_without_a_verdict_is_named(tmp_path: Path) -> None:
    judged(tmp_path, [True, "maybe"])
    stage = {"kind": "kto", "rows_are": "judged", "data": {"source": "judged.jsonl.gz"}}
    with pytest.raises(UserError, match=r"judged.jsonl.gz:2.*'maybe'"):
        run(tmp_path, stage, data_root=str(tmp_path))


def answers(seed: int, count: int = 6) -> list[AnswerRow]:
    g = torch.Generator().manual_seed(seed)

    def sequence() -> Sequence:
        n = int(torch.randint(3, 9, (1,), generator=g))
        ids = torch.randint(0, 60, (n,), generator=g).tolist()
        return Sequence(tuple(ids), (False, *([True] * (n - 1))))

    return [AnswerRow(sequence(), float(i % 2), sequence()) for i in range(count)]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_kto_does_not_depend_on_split_order_or_layout(layout: str) -> None:
    model = tiny_policy("llama")
    rows = answers(0)

    def gradient(order: list[int], budget: int, layout: str) -> list[torch.Tensor]:
        settings = EngineSettings(layout=layout, tokens_per_microbatch=budget)
        algorithm = KTO(Engine(model, settings), [rows[i] for i in order], [], KTOSettings(), seed=0)
        # the policy has moved since: a reference below its log-probs
        reference = [[x - 0.3 * (i + 1) for i, x in zip(order, r, strict=True)] for r in algorithm.reference]
        batch = algorithm.fill(algorithm.rows, reference)
        model.net.zero_grad()
        for micro in algorithm.engine.microbatches(batch):
            reduce(algorithm.objective(algorithm.compute(micro), micro), batch.counts()).backward()
        return [p.grad.clone() for p in model.net.parameters() if p.grad is not None]

    whole = gradient(list(range(6)), 10**6, "padded")
    for a, b in zip(gradient([5, 2, 0, 3, 1, 4], 12, layout), whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_baseline_is_of_other_prompts_answers_and_never_negative() -> None:
    model = tiny_policy("llama")
    rows = answers(1)
    algorithm = KTO(Engine(model), rows, [], KTOSettings(), seed=0)
    up = algorithm.fill(rows, [algorithm.reference[0], [x - 1.0 for x in algorithm.reference[1]]])
    trained = [r.mismatched.actions for r in rows]
    assert float(up.parts["kl_baseline"][0]) == pytest.approx(sum(trained) / len(trained), rel=1e-4)
    down = algorithm.fill(rows, [algorithm.reference[0], [x + 1.0 for x in algorithm.reference[1]]])
    assert float(down.parts["kl_baseline"][0]) == 0.0
    assert isinstance(up, Batch)
