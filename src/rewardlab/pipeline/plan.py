"""The memory plan of every stage that trains, from the recipe and the models' configs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rewardlab.models.loading import Model, add_lora, resolve
from rewardlab.models.memory import GIB, MemoryPlan, Network, plan_memory, room, to_fit
from rewardlab.pipeline.stages.base import TrainingStage
from rewardlab.pipeline.stages.process_reward import ProcessRewardStage
from rewardlab.pipeline.stages.reward import PreferenceStage as RewardKind

if TYPE_CHECKING:
    from rewardlab.pipeline.recipe import Recipe

PARTS = ("weights", "gradients", "optimiser", "activations", "logits")
SHORT = {"gradients": "grads", "optimiser": "optim", "activations": "activ"}


@dataclass(frozen=True)
class StagePlan:
    """A stage's peak, and what would make it fit."""

    name: str
    plan: MemoryPlan | None
    """None for a model that is made during the run."""
    fitting: MemoryPlan | None
    """The first plan within the limit; None where none is."""


def stage_plans(recipe: Recipe, limit: int | None) -> list[StagePlan]:
    """For each training stage, as its settings are; `auto` checkpointing as it comes out for `limit` bytes.

    Counted is the model that is trained. A stage that keeps a frozen copy of it (online methods with a
    reference and no `lora`), a teacher or a reward model needs those weights besides.
    """
    found = []
    for stage in recipe.stages:
        if not isinstance(stage, TrainingStage):
            continue
        path = _root(recipe, stage)
        if path is None:
            found.append(StagePlan(stage.name, None, None))
            continue
        sizes: dict[str, Any] = {
            "tokens": max(recipe.engine.tokens_per_microbatch, stage.max_tokens),
            "precision": recipe.engine.precision,
        }
        network, asked = _network(path, stage), recipe.engine.gradient_checkpointing
        plain, checkpointed = (
            plan_memory(network, gradient_checkpointing=on, optimiser_state=stage.optimiser.state, **sizes)
            for on in (False, True)
        )
        too_large = limit is not None and plain.total > limit
        made = checkpointed if asked is True or (asked == "auto" and too_large) else plain
        fits = to_fit(made.total if limit is None else limit, network, **sizes)
        found.append(StagePlan(stage.name, made, fits))
    return found


def plan_table(recipe: Recipe, plans: list[StagePlan], limit: int | None) -> RenderableType:
    """GiB of each part, stage by stage, and what the limit asks for."""
    if not plans:
        return Text("No stage of this recipe trains a network.")
    title = "GiB at the peak of a step"
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0, title=title, title_justify="left")
    table.add_column("")
    for part in (*PARTS, "total"):
        table.add_column(SHORT.get(part, part), justify="right")
    table.add_column("checkpoints")
    table.add_column("to fit")
    for row in plans:
        if (plan := row.plan) is None:
            table.add_row(row.name, *("-" for _ in range(7)), "known when the run has made its model")
            continue
        asked = recipe.engine.gradient_checkpointing
        chosen = ("on" if plan.gradient_checkpointing else "off") + (" (auto)" if asked == "auto" else "")
        cells = [f"{getattr(plan, part) / GIB:.2f}" for part in (*PARTS, "total")]
        way = "lora, or fewer tokens_per_microbatch"
        if limit is None or plan.total <= limit:
            way = "fits" if limit is not None else "-"
        elif row.fitting is not None:
            way = ", ".join(row.fitting.options) or "gradient_checkpointing=auto"
        table.add_row(row.name, *cells, chosen, way)
    known = (
        "free memory is not known here" if limit is None else f"a plan may fill {limit / GIB:.2f} GiB here"
    )
    return Group(table, Text(f"\n{known}", style="dim"))


def device_room() -> int | None:
    """What a plan may fill where a run of this process would train: the CPU."""
    return room(torch.device("cpu"))


def _root(recipe: Recipe, stage: TrainingStage) -> str | None:
    """The model path that a stage's network comes from; None if a stage without a parent makes it."""
    stages = {s.name: s for s in recipe.stages}
    name = stage.init
    while name in stages:
        before = stages[name]
        if not isinstance(before, TrainingStage):
            return None
        name = before.init
    return recipe.model.path if name == "base" else name


def _network(path: str, stage: TrainingStage) -> Network:
    """The network that the stage trains, built without memory for its weights."""
    scores = isinstance(stage, RewardKind | ProcessRewardStage)
    config = AutoConfig.from_pretrained(resolve(path))
    if scores:
        config.num_labels = 1
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with torch.device("meta"):
        model = Model(auto.from_config(config), None, path)
        if stage.lora is not None:
            model = add_lora(model, stage.lora, reward_head=scores, seed=0)
    return Network.of(model.net, model.hf)
