"""The stages that measure: audit a reward, evaluate policies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rewardlab.audit import audit_reward
from rewardlab.audit.padding import FILLER
from rewardlab.core.batch import Batch, given
from rewardlab.core.types import Prompt, Rollout, Score
from rewardlab.evaluation import TokenStatistics, evaluate
from rewardlab.models.engine import Engine
from rewardlab.pipeline import rows
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.recipe import AuditStage, EvaluateStage
from rewardlab.pipeline.seeds import derive
from rewardlab.rollout.sampler import Sampler, SamplerSettings, to_rollouts
from rewardlab.worlds.advice.language import FILLERS

Summary = dict[str, Any]


def run_audit(context: Context, stage: AuditStage) -> Summary:
    """The report card of one reward on held-out pairs."""
    pairs = []
    for number, data in enumerate(stage.data):
        loaded = rows.load_pairs(context, data, f"{stage.name}.data.{number}")
        context.run.add_data(f"{stage.name}.data.{number}", loaded.facts())
        pairs.extend(loaded.rows)
    reward = context.reward(stage.reward)
    of_world = all(data.source.startswith("world") for data in stage.data)
    padding = FILLERS[:3] if of_world else FILLER  # in a world, sentences that its rewards have seen
    card = audit_reward(reward.score, pairs, seed=derive(context.recipe.seed, stage.name), padding=padding)
    return {"reward_model": card}


def run_evaluate(context: Context, stage: EvaluateStage) -> Summary:
    """Every policy answers the same prompts with the same uniforms; every reward scores every answer."""
    record = context.run.stage(stage.name)
    seed = derive(context.recipe.seed, stage.name)
    reference = context.policy(stage.reference)
    answers: dict[str, list[Rollout]] = {}
    tokens: dict[str, list[TokenStatistics]] = {}
    scores: dict[str, dict[str, list[Score]]] = {name: {} for name in stage.rewards}
    for number, name in enumerate(stage.policies):
        engine = context.policy(name)
        prompts, ids = rows.prompts(context, stage.data, stage.name, engine.model.tokenizer, stage.max_tokens)
        drawn = stage.model_dump(include={"samples_per_prompt", "max_new_tokens", "temperature"})
        groups = Sampler(engine, SamplerSettings(**drawn)).sample(
            ids, torch.Generator().manual_seed(seed), progress=context.progress
        )
        answers[name] = to_rollouts(prompts, groups, engine)
        tokens[name] = _token_statistics(answers[name], engine, reference)
        for column, reward in stage.rewards.items():
            scores[column][name] = context.reward(reward, engine).score(answers[name])
        parts = {column: _values(scores[column][name]) for column in stage.rewards}
        record.write_rollouts(number, answers[name], parts)
        first = next(iter(stage.rewards), None)
        shown = answers[name][: context.peek]
        if first is not None:
            shown = [replace(r, score=s) for r, s in zip(shown, scores[first][name], strict=False)]
        context.peek_rollouts(shown, f"{stage.name}: {name}")
    world = context.world if context.recipe.world is not None else None
    found = evaluate(
        answers,
        seed=seed,
        scores=scores,
        baseline=stage.baseline,
        judge=stage.judge if stage.judge in scores else None,
        tokens=tokens,
        behaviour=None if world is None else world.behaviour,
    )
    samples = _samples(answers, scores, stage)
    return {**found, "baseline": stage.baseline, "judge": stage.judge, "level": 0.95, "samples": samples}


def _token_statistics(rollouts: list[Rollout], engine: Engine, reference: Engine) -> list[TokenStatistics]:
    """Log-probs under policy and reference, and entropies, at each answer's actions."""
    batch = Batch.pack([r.sequence for r in rollouts])
    own = engine.frozen_logprobs(batch, entropy=True)
    other = given(reference.frozen_logprobs(batch).logp)
    sizes = torch.zeros(batch.size, dtype=torch.long).index_add(0, batch.seq, batch.action.long()).tolist()

    def split(x: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(x[batch.action], sizes)

    columns = zip(split(given(own.logp)), split(other), split(given(own.entropy)), strict=True)
    return [TokenStatistics(p.numpy(), r.numpy(), e.numpy()) for p, r, e in columns]


def _values(scores: list[Score]) -> list[float]:
    return [float("nan") if s.value is None else s.value for s in scores]


def _samples(
    answers: dict[str, list[Rollout]], scores: dict[str, dict[str, list[Score]]], stage: EvaluateStage
) -> list[dict[str, Any]]:
    """The first answer of every policy to the first prompts, with all reward parts."""
    first = next(iter(answers.values()))
    places = range(0, len(first), stage.samples_per_prompt)[: stage.samples_in_report]
    return [
        {
            "prompt": _prompt(first[i].prompt),
            "answers": [
                {
                    "policy": name,
                    "text": rollouts[i].text,
                    "stop": rollouts[i].sequence.stop,
                    "rewards": {c: _score(by_policy[name][i]) for c, by_policy in scores.items()},
                }
                for name, rollouts in answers.items()
            ],
        }
        for i in places
    ]


def _prompt(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


def _score(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "status": score.status,
        "parts": dict(score.parts),
        **({"reason": score.reason} if score.reason else {}),
    }
