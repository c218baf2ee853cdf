"""The stages that train: load, render, build the algorithm, run the loop, save the output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from rewardlab.core.types import Prompt
from rewardlab.models import scratch
from rewardlab.models.engine import Engine
from rewardlab.models.loading import Model, add_lora, load_policy, load_reward_model, save
from rewardlab.pipeline import rows
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import (
    DPOStage,
    GRPOStage,
    ProbeSettings,
    RewardStage,
    ScratchStage,
    SFTStage,
    TrainingStage,
)
from rewardlab.pipeline.seeds import derive
from rewardlab.records.atomic import write_folder, write_text
from rewardlab.rollout.sampler import SamplerSettings
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.algorithms.dpo import DPO
from rewardlab.training.algorithms.grpo import GRPO
from rewardlab.training.algorithms.reward import RewardModelling
from rewardlab.training.algorithms.sft import SFT
from rewardlab.training.loop import Callback, train
from rewardlab.training.pairs import pack_pairs
from rewardlab.training.probe import Probe

Summary = dict[str, Any]


def run_scratch(context: Context, stage: ScratchStage) -> Summary:
    """Make a new model folder."""
    record = context.run.stage(stage.name)
    texts = rows.texts(context, stage)
    size = scratch.make(stage, texts, record.output, seed=derive(context.recipe.seed, stage.name))
    return {"final": {"parameters": float(size)}}


def run_sft(context: Context, stage: SFTStage) -> Summary:
    """Supervised fine-tuning."""
    engine, seed = _policy(context, stage)
    train_rows, held_out = rows.examples(context, stage, engine.model.tokenizer)
    context.peek_at(train_rows, engine.model.tokenizer, f"{stage.name}: row")
    algorithm = SFT(
        engine,
        train_rows,
        held_out,
        rows_per_step=stage.rows_per_step,
        seed=seed,
        probe=_probe(context, stage.probe, engine, stage.name),
    )
    return _finish(context, stage, algorithm)


def run_reward(context: Context, stage: RewardStage) -> Summary:
    """Reward model; its scores are shifted so that the mean over the held-out answers is zero."""
    seed = derive(context.recipe.seed, stage.name)
    torch.manual_seed(seed)
    model = load_reward_model(context.model_settings(stage.init), seed=seed)
    engine = context.engine(_adapted(model, stage, seed, reward_head=True))
    train_rows, held_out = rows.pairs(context, stage, engine.model.tokenizer)
    context.peek_at([p.chosen for p in train_rows], engine.model.tokenizer, f"{stage.name}: chosen")
    algorithm = RewardModelling(
        engine,
        train_rows,
        held_out,
        pairs_per_step=stage.pairs_per_step,
        centring=stage.centring,
        seed=seed,
    )
    summary = _finish(context, stage, algorithm)
    scored = engine.frozen_scores(pack_pairs(held_out or train_rows))
    facts = {"offset": float(scored.mean()), "max_tokens": stage.max_tokens}
    write_text(context.run.stage(stage.name).output / "reward.json", json.dumps(facts))
    return summary


def run_dpo(context: Context, stage: DPOStage) -> Summary:
    """Direct preference optimisation."""
    engine, seed = _policy(context, stage)
    train_rows, held_out = rows.pairs(context, stage, engine.model.tokenizer)
    context.peek_at([p.chosen for p in train_rows], engine.model.tokenizer, f"{stage.name}: chosen")
    algorithm = DPO(
        engine,
        train_rows,
        held_out,
        pairs_per_step=stage.pairs_per_step,
        beta=stage.beta,
        label_smoothing=stage.label_smoothing,
        seed=seed,
        probe=_probe(context, stage.probe, engine, stage.name),
        progress=context.progress,
    )
    return _finish(context, stage, algorithm)


def run_grpo(context: Context, stage: GRPOStage) -> Summary:
    """Group-relative policy optimisation."""
    engine, seed = _policy(context, stage)
    prompts, ids = rows.prompts(context, stage.data, stage.name, engine.model.tokenizer, stage.max_tokens)
    algorithm = GRPO(
        engine,
        prompts,
        ids,
        context.reward(stage.reward, engine),
        stage,
        seed=seed,
        record=context.run.stage(stage.name),
        observers=tuple(context.reward(name, engine) for name in stage.observe),
        probe=_probe(context, stage.probe, engine, stage.name),
    )
    record = context.run.stage(stage.name)

    def peek(step: int, _: Mapping[str, float]) -> None:
        if context.peek and step == 1:
            context.peek_rollouts(record.read_rollouts(step), f"{stage.name}: rollout")

    return _finish(context, stage, algorithm, (peek,))


def _policy(context: Context, stage: TrainingStage) -> tuple[Engine, int]:
    seed = derive(context.recipe.seed, stage.name)
    torch.manual_seed(seed)
    model = load_policy(context.model_settings(stage.init))
    return context.engine(_adapted(model, stage, seed, reward_head=False)), seed


def _adapted(model: Model, stage: TrainingStage, seed: int, *, reward_head: bool) -> Model:
    return model if stage.lora is None else add_lora(model, stage.lora, reward_head=reward_head, seed=seed)


def _probe(context: Context, settings: ProbeSettings | None, engine: Engine, stage: str) -> Probe | None:
    if settings is None:
        return None
    name = f"{stage}.probe"
    prompts: list[Prompt]
    prompts, ids = rows.prompts(context, settings.data, name, engine.model.tokenizer, max_tokens=1024)
    return Probe(
        prompts,
        ids,
        SamplerSettings(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature),
        [context.reward(r, engine) for r in settings.rewards],
        seed=derive(context.recipe.seed, name),
    )


def _finish(
    context: Context, stage: TrainingStage, algorithm: Algorithm, callbacks: tuple[Callback, ...] = ()
) -> Summary:
    record = context.run.stage(stage.name)
    at = train(algorithm, stage, record, progress=context.progress, callbacks=callbacks)
    write_folder(record.output, lambda folder: save(algorithm.engine.model, folder))
    if at.skipped:
        context.warnings.append(f"{stage.name}: {at.skipped} updates were not finite and were skipped.")
    return {"steps": at.step, "seconds": at.seconds, "final": at.last}
