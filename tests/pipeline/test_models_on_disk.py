"""Hugging Face folders in, Hugging Face folders out: plain transformers reads what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.models.loading import ModelSettings, load_policy, load_reward_model
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from support import save_policy

WORLD = {"source": "world", "rows": 16}
FAST = {"steps": 3, "optimiser": {"learning_rate": 5e-3}}
LORA = {"rank": 4}
IDS = torch.tensor([[5, 9, 11, 40, 41]])


def run(folder: Path, model: Path, stages: list[dict[str, Any]]) -> dict[str, Any]:
    recipe = load_settings(Recipe, {"name": "r", "model": str(model), "world": {}, "stages": stages}).value
    return run_recipe(recipe, folder)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_method_trains_saves_and_reloads(
    tmp_path: Path, family: Literal["llama", "qwen3"], lora: dict[str, int] | None
) -> None:
    model = save_policy(tmp_path / "model", family)
    common = {**FAST, "lora": lora, "data": WORLD}
    online = {"prompts_per_step": 2, "samples_per_prompt": 3, "max_new_tokens": 8, "train_truncated": True}
    stages = [
        {"kind": "sft", "rows_per_step": 4, **common},
        {"kind": "reward", "init": "sft", "pairs_per_step": 4, **common},
        {"kind": "dpo", "init": "sft", "pairs_per_step": 4, **common},
        {"kind": "grpo", "init": "sft", "reward": "reward", "kl_coefficient": 0.05, **online, **common},
    ]
    run(tmp_path / "run", model, stages)
    before = AutoModelForCausalLM.from_pretrained(model)(IDS).logits
    for name in ("sft", "dpo", "grpo"):
        output = tmp_path / "run" / "stages" / name / "output"
        plain = AutoModelForCausalLM.from_pretrained(output)
        assert AutoTokenizer.from_pretrained(output).chat_template
        logits = plain(IDS).logits
        assert not torch.allclose(logits, before, atol=1e-3), f"{name} changed nothing"
        ours = load_policy(ModelSettings(path=str(output)))
        torch.testing.assert_close(ours.net(IDS).logits, logits)
        if lora and name == "sft":
            adapted = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(model), output / "adapter"
            )
            torch.testing.assert_close(adapted(IDS).logits, logits, atol=1e-4, rtol=1e-4)
    folder = tmp_path / "run" / "stages" / "reward" / "output"
    with pytest.raises(UserError, match="is a reward model"):
        load_policy(ModelSettings(path=str(folder)))
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    score = Engine(load_reward_model(ModelSettings(path=str(folder)))).frozen_scores(
        Batch.pack([Sequence(tuple(IDS[0].tolist()), (False,) * 5)])
    )
    torch.testing.assert_close(plain(IDS).logits[0], score, atol=1e-5, rtol=1e-4)


def test_the_stop_token_learns_even_where_it_is_the_pad_token(tmp_path: Path) -> None:
    """transformers freezes the pad token's embedding; with pad equal to eos the stop would never learn."""
    model = load_policy(ModelSettings(path=str(save_policy(tmp_path / "model"))))
    eos = model.tokenizer.eos_token_id
    assert eos == model.tokenizer.pad_token_id
    out = Engine(model).logprobs(Batch.pack([Sequence((5, eos, 7), (False, False, True))]))
    assert out.logp is not None
    out.logp.sum().backward()
    assert model.net.get_input_embeddings().weight.grad[eos].abs().sum() > 0


def test_a_causal_model_is_not_a_reward_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without a reward head"):
        load_reward_model(ModelSettings(path=str(save_policy(tmp_path / "model"))))


def test_a_hub_id_that_cannot_be_reached_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nmore")

    monkeypatch.setattr("rewardlab.models.loading.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(UserError, match=r"org/name could not be loaded \(We couldn't connect to the hub\.\)"):
        load_policy(ModelSettings(path="org/name"))
