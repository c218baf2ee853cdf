"""Recipes choose preference losses by name, and the whole step's ranks survive micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.objectives.reduction import reduce
from rewardlab.pipeline.recipe import DPOStage
from rewardlab.training.algorithms.dpo import DPO
from rewardlab.training.pairs import PairRow
from support import tiny_policy

MODEL = tiny_policy()


def rows(count: int) -> list[PairRow]:
    generator = torch.Generator().manual_seed(0)

    def answer(n: int) -> Sequence:
        ids = torch.randint(0, 60, (n + 2,), generator=generator).tolist()
        return Sequence(tuple(ids), (False, False) + (True,) * n)

    return [PairRow(answer(2 + i % 4), answer(1 + i % 3)) for i in range(count)]


def algorithm(knobs: dict[str, Any], tokens_per_microbatch: int) -> DPO:
    engine = Engine(MODEL, EngineSettings(tokens_per_microbatch=tokens_per_microbatch))
    settings = PreferenceSettings.model_validate(knobs)
    dpo = DPO(engine, rows(12), rows(3), pairs_per_step=6, settings=settings, seed=0)
    dpo.reference = [x - 0.1 * torch.arange(x.numel()) / x.numel() for x in dpo.reference]  # not at the start
    return dpo


def gradients(dpo: DPO) -> tuple[int, list[torch.Tensor]]:
    """Number of micro-batches of step 0, and the gradient of its loss."""
    (batch,), _ = dpo.batches(0)
    dpo.engine.model.net.zero_grad()
    passes = 0
    for micro in dpo.engine.microbatches(batch):
        reduce(dpo.objective(dpo.engine.logprobs(micro), micro), batch.counts()).backward()
        passes += 1
    return passes, [p.grad.clone() for p in dpo.engine.parameters.values() if p.grad is not None]


@pytest.mark.parametrize(
    "knobs",
    [
        {"loss": "aot"},
        {"loss": {"aot_unpaired": 1.0, "sft": 0.2}},
        {"loss": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}, "bco_momentum": 0.5, "tail": 0.5},
        {"loss": "simpo", "beta": 2.0},
    ],
)
def test_a_step_has_the_same_gradient_however_it_is_split(knobs: dict[str, Any]) -> None:
    one, together = gradients(algorithm(knobs, 10_000))
    many, apart = gradients(algorithm(knobs, 16))
    assert one == 1
    assert many > 1
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-6)
    assert any(bool((g != 0).any()) for g in together)


def test_running_delta_is_part_of_the_checkpoint() -> None:
    dpo = algorithm({"loss": "bco_pair", "bco_momentum": 0.5}, 10_000)
    dpo.batches(0)
    assert dpo.bco_delta != 0
    other = algorithm({"loss": "bco_pair", "bco_momentum": 0.5}, 10_000)
    other.load_state(dpo.state())
    dpo.batches(1)
    other.batches(1)
    assert other.bco_delta == dpo.bco_delta


def test_reference_free_losses_skip_the_reference_and_evaluate() -> None:
    engine = Engine(MODEL)
    settings = PreferenceSettings.model_validate({"loss": "orpo"})
    dpo = DPO(engine, rows(4), rows(2), pairs_per_step=2, settings=settings, seed=0)
    assert dpo.reference == []
    assert set(dpo.evaluate()) >= {"eval_loss", "eval_orpo", "eval_accuracy"}


def test_a_recipe_names_one_loss_or_a_weighted_mixture() -> None:
    plain = {"kind": "dpo", "data": [{"source": "pairs.jsonl"}]}
    assert DPOStage.model_validate(plain).loss == {"sigmoid": 1.0}
    assert DPOStage.model_validate({**plain, "loss": "ipo", "ipo_average": False}).loss == {"ipo": 1.0}
    mixed = DPOStage.model_validate({**plain, "loss": {"sigmoid": 1.0, "sft": 0.2}})
    assert mixed.loss == {"sigmoid": 1.0, "sft": 0.2}
    with pytest.raises(ValueError, match="sigmoidal"):
        DPOStage.model_validate({**plain, "loss": {"sigmoidal": 1.0}})
