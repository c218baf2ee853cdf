"""PPO and process reward stages run by name from the embedded default, and learn in five steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Prompt, Rollout, Sequence
from rewardlab.models.engine import Engine
from rewardlab.models.loading import ModelSettings, load_reward_model
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.rewards.process import ProcessReward
from rewardlab.worlds.advice import AdviceWorld

WORLD = {"source": "world", "rows": 200}
STEADY = {"schedule": "constant", "warmup_fraction": 0.0}
PPO: dict[str, Any] = {
    "kind": "ppo",
    "data": WORLD,
    "steps": 5,
    "prompts_per_step": 24,
    "epochs": 2,
    "minibatches": 2,
    "max_new_tokens": 56,
    "train_truncated": True,
    "value_clip": None,  # returns are tens of words
    "optimiser": {"learning_rate": 1.0e-3, **STEADY},
}
PRM = {
    "kind": "process_reward",
    "name": "prm",
    "steps_are": "sentence",
    "data": {"source": "world", "rows": 160},
    "held_out": {"source": "world", "rows": 60, "split": "heldout"},
    "steps": 5,
    "evaluate_every": 1,
    "optimiser": {"learning_rate": 2.0e-3, **STEADY},
}


def run(folder: Path, *stages: dict[str, Any]) -> Path:
    given = {"name": "r", "model": "embedded:advice-base", "world": {}, "stages": list(stages)}
    run_recipe(load_settings(Recipe, given).value, folder)
    return folder / "stages"


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("critic", "value_coefficient"),
    [("separate", 0.5), ("shared", 0.001)],  # on a shared trunk returns of this size would drown the policy
)
def test_ppo_climbs_its_reward(critic: str, value_coefficient: float, tmp_path: Path) -> None:
    """Paid by the word, answers grow by at least six words: several standard errors of a round's mean."""
    stage = {**PPO, "critic": critic, "reward": "length", "kl_coefficient": 0.0}
    folder = run(tmp_path / "run", {**stage, "value_coefficient": value_coefficient}) / "ppo"
    rows = metrics(folder)
    assert len(rows) == 5
    assert (rows[3]["reward"] + rows[4]["reward"]) / 2 > rows[0]["reward"] + 6
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert rows[-1]["kl"] > 1
    AutoModelForCausalLM.from_pretrained(folder / "output")  # the policy alone, as plain transformers has it


def test_steps_are_learnt_and_then_reward_a_policy(tmp_path: Path) -> None:
    """Held-out loss falls at every look, and the trained reward marks true answers above false ones."""
    ppo = {
        **PPO,
        "steps": 1,
        "prompts_per_step": 8,
        "reward": "prm",
        "critic_init": "prm",
        "kl_control": "budgeted",
        "kl_target": 2.0,
    }
    stages = run(tmp_path / "run", PRM, {**ppo, "lora": {"rank": 4}})
    rows = metrics(stages / "prm")
    losses = [row["eval_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.85 * losses[0]
    assert rows[-1]["eval_accuracy"] > 0.75
    facts = json.loads((stages / "prm" / "output" / "process.json").read_text())
    model = load_reward_model(ModelSettings(path=str(stages / "prm" / "output")))
    world = AdviceWorld()
    prompts = world.prompts(20, split="heldout", seed=5)
    fillers = "Many people enjoy doing this. That is a great question!"
    answers = [world.best_answer(p) for p in prompts]
    reward = ProcessReward("prm", Engine(model), **facts)
    good = reward.score([_rollout(p, a) for p, a in zip(prompts, answers, strict=True)])
    bad = reward.score([_rollout(p, f"{a} {fillers}") for p, a in zip(prompts, answers, strict=True)])
    assert all(g.value > b.value for g, b in zip(good, bad, strict=True))
    (row,) = metrics(stages / "ppo")
    assert 0 < row["reward"] < 1
    assert row["unscored"] == 0


def _rollout(prompt: Prompt, text: str) -> Rollout:
    return Rollout(prompt, Sequence((0,), (False,)), text)
