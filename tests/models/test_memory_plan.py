"""The memory plan: what is counted, what makes it smaller, and what a recipe's plan says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rewardlab.cli.main import app
from rewardlab.models.loading import LoraSettings, add_lora
from rewardlab.models.memory import Network, plan_memory, plans, to_fit
from support import tiny_policy, tiny_reward_model

SEVEN_B = Network(
    trainable=7_615_616_512, frozen=0, largest=152_064 * 3584, hidden=3584, layers=28, intermediate=18_944,
    queries=3584, keys=512, vocabulary=152_064,
)  # fmt: skip


def test_a_network_is_counted_whole_with_its_adapters() -> None:
    model = tiny_policy()
    network = Network.of(model.net, model.hf)
    assert network.trainable == sum(p.numel() for p in model.net.parameters())
    assert (network.frozen, network.layers, network.hidden, network.keys) == (0, 2, 32, 16)
    adapted = add_lora(model, LoraSettings(rank=2), reward_head=False, seed=0)
    with_lora = Network.of(adapted.net, adapted.hf)
    assert with_lora.frozen == network.trainable
    assert 0 < with_lora.trainable < network.trainable
    scorer = tiny_reward_model()
    assert Network.of(scorer.net, scorer.hf).vocabulary == 0


def test_parts_are_the_bytes_that_arithmetic_gives() -> None:
    plan = plan_memory(SEVEN_B, tokens=2048)
    n = SEVEN_B.trainable
    assert plan.weights == 4 * n
    assert plan.optimiser == 8 * n
    assert plan.gradients == 4 * (n + SEVEN_B.largest)
    assert plan.total == sum((plan.weights, plan.gradients, plan.optimiser, plan.activations, plan.logits))
    assert plan_memory(SEVEN_B, tokens=2048, optimiser_state="8bit").optimiser < 0.26 * plan.optimiser


def test_more_tokens_take_more_and_the_logits_do_not_grow_without_end() -> None:
    one, two = (plan_memory(SEVEN_B, tokens=n) for n in (4096, 8192))
    assert two.activations == 2 * one.activations
    assert two.logits == one.logits < 4096 * SEVEN_B.vocabulary * 4
    assert plan_memory(SEVEN_B, tokens=64, actions=8).logits == 8 * SEVEN_B.vocabulary * 4


def test_checkpointing_and_then_8_bit_are_asked_for_as_the_limit_falls() -> None:
    plain, checkpointed, small = plans(SEVEN_B, tokens=8192)
    assert plain.total > checkpointed.total > small.total
    assert checkpointed.activations < 0.15 * plain.activations
    assert [p.options for p in (plain, checkpointed, small)] == [
        (), ("gradient_checkpointing",), ("gradient_checkpointing", "optimiser.state=8bit"),
    ]  # fmt: skip
    for plan in (plain, checkpointed, small):
        assert to_fit(plan.total, SEVEN_B, tokens=8192) == plan
    assert to_fit(small.total - 1, SEVEN_B, tokens=8192) is None


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    data = {"source": "world"}
    stages = [
        {"kind": "sft", "data": data},
        {"kind": "reward", "init": "sft", "data": data},
        {"kind": "dpo", "init": "sft", "data": data, "lora": {"rank": 4}, "optimiser": {"state": "8bit"}},
        {"kind": "audit", "reward": "reward", "data": data},
    ]
    whole = {"name": "planned", "model": "embedded:advice-base", "world": {}, "stages": stages}
    file.write_text(yaml.safe_dump(whole))
    return file


def test_a_recipe_is_planned_and_not_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardlab.models.memory.free_memory", lambda device: 2**20)
    command = ["train", str(recipe), "--plan", "--runs", str(tmp_path / "runs")]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "on (auto)" in shown.output
    assert "lora, or fewer tokens_per_microbatch" in shown.output
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    stages = {s["name"]: s["plan"] for s in found["stages"]}
    assert list(stages) == ["sft", "reward", "dpo"]
    assert stages["reward"]["logits"] == 0 < stages["sft"]["logits"]
    assert stages["dpo"]["gradients"] < 0.2 * stages["sft"]["gradients"]
    assert not (tmp_path / "runs").exists()


def test_plenty_of_memory_leaves_checkpointing_off(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewardlab.models.memory.free_memory", lambda device: 2**40)
    shown = CliRunner().invoke(app, ["train", str(recipe), "--plan"], env={"COLUMNS": "160"})
    assert shown.output.count("off (auto)") == shown.output.count("fits") == 3
