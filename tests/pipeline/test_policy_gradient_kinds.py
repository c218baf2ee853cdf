"""Every policy-gradient kind and advantage by name, five steps through a recipe; controllers and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.models.engine import Engine
from rewardlab.objectives.advantage import gdpo
from rewardlab.pipeline.recipe import Recipe
from rewardlab.pipeline.run import run_recipe
from rewardlab.records.stage import StageRecord
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.experience import Experience
from support import tiny_policy

TINY = {
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
PARTS = {"recall": 1.0, "filler": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "rloo": {"kind": "rloo"},
    "reinforce_pp": {"kind": "reinforce_pp"},
    "gspo": {"kind": "gspo"},
    "cispo": {"kind": "cispo"},
    "gvpo": {"kind": "gvpo"},
    "riskpo": {"kind": "riskpo", "questions_per_bundle": 2},
    "pairwise": {"kind": "grpo", "advantage": "pairwise"},
    "remax": {"kind": "grpo", "advantage": "remax"},
    "gdpo": {"kind": "grpo", "advantage": "gdpo", "reward": "gold", "part_weights": PARTS},
    "adaptive": {"kind": "grpo", "kl_control": "adaptive", "kl_target": 0.01, "kl_horizon": 32},
    "budgeted": {"kind": "grpo", "kl_control": "budgeted", "kl_target": 0.01, "entropy_target": 9.0},
}


def run(folder: Path, stage: dict[str, Any]) -> list[dict[str, float]]:
    file = folder / "recipe.yaml"
    whole = {
        "name": "kinds", "model": "embedded:advice-base", "world": {}, "stages": [{**TINY, **stage, "name": "it"}]
    }  # fmt: skip
    file.write_text(yaml.safe_dump(whole))
    run_recipe(load_settings(Recipe, file, []).value, folder / "run")
    return StageRecord("it", folder / "run" / "stages" / "it").read_metrics()


@pytest.mark.parametrize("name", list(CASES))
def test_a_kind_trains_through_a_recipe(tmp_path: Path, name: str) -> None:
    rows = run(tmp_path, CASES[name])
    assert len(rows) == 5
    assert rows[-1]["skipped_updates"] == 0
    assert any(r["grad_norm"] > 0 for r in rows)
    if name == "riskpo":
        assert rows[0]["quantile_low"] != rows[-1]["quantile_low"]
    elif name == "remax":
        assert all(4 <= r["greedy_tokens"] <= 64 for r in rows)
    elif name == "adaptive":
        assert rows[0]["kl_coefficient"] < 0.02  # no KL yet: it pays less
    elif name == "budgeted":
        coefficients = [r["entropy_coefficient"] for r in rows]
        assert coefficients == sorted(coefficients)
        assert coefficients[-1] > coefficients[0]


@pytest.mark.parametrize("kind", ["rloo", "reinforce_pp", "gspo", "cispo"])
def test_the_length_reward_rises(tmp_path: Path, kind: str) -> None:
    # KL-free, and a rate at which twelve steps suffice whatever the draws
    change = {
        "kind": kind, "kl_coefficient": 0.0, "steps": 12, "samples_per_prompt": 8, "max_new_tokens": 32,
        "optimiser": {"learning_rate": 2e-3, "schedule": "constant"},
    }  # fmt: skip
    reward = [r["reward"] for r in run(tmp_path, change)]
    assert sum(reward[-3:]) / 3 > sum(reward[:3]) / 3


class Parts:
    """Two objectives by answer length and token ids."""

    name = "parts"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        found = []
        for r in rollouts:
            parts = {"a": float(sum(r.sequence.ids) % 7), "b": 100.0 * (sum(r.sequence.ids) % 5)}
            found.append(Score(sum(parts.values()), parts=parts))
        return found


def algorithm(**settings: Any) -> GRPO:
    engine = Engine(tiny_policy("qwen3"))
    knobs = {"prompts_per_step": 4, "samples_per_prompt": 4, "max_new_tokens": 6, "train_truncated": True}
    s = GRPOSettings(**knobs | settings)
    prompts = [Prompt((Message("user", str(i)),), id=str(i)) for i in range(4)]
    ids = [[5, 9, 11], [7, 8], [40, 41], [12]]
    return GRPO(engine, Experience(engine, prompts, ids, Parts(), s, prompts_at_once=4, seed=0), s)


def test_gdpo_reads_the_parts_and_not_their_sum() -> None:
    made = algorithm(advantage="gdpo", part_weights={"a": 1.0, "b": 0.5})
    rollouts = made.experience.collect(0)
    batch, _ = made.fill(rollouts)
    parts = torch.tensor([[r.score.parts[k] for r in rollouts] for k in ("a", "b")])
    expected = gdpo(parts, torch.tensor([1.0, 0.5]), batch.group)
    torch.testing.assert_close(batch.streams["advantage"][batch.offsets[1:] - 1], expected)


def test_pairwise_of_reward_differences_is_scaled_group_advantage() -> None:
    rollouts = algorithm().experience.collect(0)
    found = [algorithm(advantage=a).fill(rollouts)[0].streams["advantage"] for a in ("pairwise", "grpo_std")]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_remax_subtracts_the_greedy_answers_reward_and_spends_no_draw() -> None:
    made, plain = algorithm(advantage="remax"), algorithm()
    rollouts = made.experience.collect(0)
    plain.experience.collect(0)
    greedy = made.experience.greedy(rollouts)
    assert made.experience.state()["generator"].equal(plain.experience.state()["generator"])
    batch, _ = made.fill(rollouts)
    expected = [r.score.value - greedy[r.group].score.value for r in rollouts]
    assert batch.streams["advantage"][batch.offsets[1:] - 1].tolist() == pytest.approx(expected)


def test_quantiles_and_coefficients_survive_a_checkpoint() -> None:
    knobs = {
        "advantage": "riskpo", "questions_per_bundle": 2, "kl_control": "adaptive", "kl_target": 1.0,
        "kl_horizon": 16, "entropy_target": 9.0,
    }  # fmt: skip
    first = algorithm(**knobs)
    first.batches(0)
    second = algorithm(**knobs)
    second.load_state(first.state())
    (a,), numbers_a = first.batches(1)
    (b,), numbers_b = second.batches(1)
    assert numbers_a == numbers_b
    assert a.streams["advantage"].equal(b.streams["advantage"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage": "gdpo"}, "part_weights"),
        ({"part_weights": {"a": 1.0}}, "part_weights"),
        ({"advantage": "riskpo", "questions_per_bundle": 3}, "bundles"),
        ({"loss": "gvpo", "advantage": "rloo"}, "reads rewards"),
    ],
)
def test_settings_that_do_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        algorithm(**change)


def test_an_unknown_part_is_named() -> None:
    made = algorithm(advantage="gdpo", part_weights={"c": 1.0})
    with pytest.raises(UserError, match="no score has a part c"):
        made.batches(0)
