"""Policies side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, model_validator

from rewardlab.core.batch import Batch, given
from rewardlab.core.types import Prompt, Rollout, Score
from rewardlab.evaluation import TokenStatistics, evaluate
from rewardlab.models.engine import Engine
from rewardlab.models.loading import same_tokenizer
from rewardlab.pipeline import rows
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage
from rewardlab.rollout.sampler import Sampler, drawing, to_rollouts

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


def named(value: Any) -> Any:
    """A list of models as name -> model: a stage's output folder is called by its stage."""
    if not isinstance(value, list):
        return value
    parts = [Path(p).parts for p in value]
    names = [p[-2] if len(p) > 1 and p[-1] == "output" else p[-1] if p else "" for p in parts]
    return {v if names.count(n) > 1 else n: v for n, v in zip(names, value, strict=True)}


class EvaluateStage(Stage):
    """Every policy answers the same prompts with the same uniforms; every reward scores every answer."""

    kind: Literal["evaluate"] = "evaluate"
    policies: Annotated[dict[str, str], BeforeValidator(named)] = {"base": "base"}
    """Name in the report -> stage name, `base` or model folder; a list names each by its stage or folder."""
    baseline: str = "base"
    """The policy that win rates and differences are against."""
    reference: str = "base"
    """The policy that KL is measured from."""
    rewards: dict[str, str] = {}
    """Column name -> reward; `proxy` and `gold` are the usual names."""
    judge: str = "gold"
    """The reward column that decides wins."""
    data: Sources
    samples_per_prompt: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""
    samples_in_report: int = 40
    max_tokens: int = 1024
    """Longer prompts lose their left end; counted in the manifest."""

    @model_validator(mode="after")
    def _names(self) -> EvaluateStage:
        if self.baseline not in self.policies:
            raise ValueError(f"baseline {self.baseline!r} is not among the policies {list(self.policies)}")
        if self.rewards and self.judge not in self.rewards:
            raise ValueError(f"judge {self.judge!r} is not among the rewards {list(self.rewards)}")
        return self

    def references(self) -> list[tuple[str, str]]:
        """Policies, the reference, and the rewards."""
        reference = self.policies.get(self.reference, self.reference)
        policies = [("policies", name) for name in (*self.policies.values(), reference)]
        return [*policies, *(("rewards", name) for name in self.rewards.values())]

    def run(self, context: Context) -> Outcome:
        """Sample, score and compare."""
        record = context.run.stage(self.name)
        seed = derive(context.recipe.seed, self.name)
        reference = context.policy(self.policies.get(self.reference, self.reference))
        answers: dict[str, list[Rollout]] = {}
        tokens: dict[str, list[TokenStatistics]] = {}
        scores: dict[str, dict[str, list[Score]]] = {name: {} for name in self.rewards}
        for number, (name, path) in enumerate(self.policies.items()):
            engine = context.policy(path)
            prompts, ids = rows.prompts(
                context, self.data, self.name, engine.model.tokenizer, self.max_tokens
            )
            groups = Sampler(engine, drawing(self)).sample(
                ids, torch.Generator().manual_seed(seed), progress=context.progress
            )
            answers[name] = to_rollouts(prompts, groups, engine)
            tokens[name] = _token_statistics(answers[name], engine, reference)
            for column, reward in self.rewards.items():
                scores[column][name] = context.reward(reward, engine).score(answers[name])
            parts = {column: _values(scores[column][name]) for column in self.rewards}
            record.write_rollouts(number, answers[name], parts)
            first = next(iter(self.rewards), None)
            shown = answers[name][: context.peek]
            if first is not None:
                shown = [replace(r, score=s) for r, s in zip(shown, scores[first][name], strict=False)]
            context.peek_rollouts(shown, f"{self.name}: {name}")
        of_world = all(data.source.split(":")[0] == "world" for data in self.data)
        found = evaluate(
            answers,
            seed=seed,
            scores=scores,
            baseline=self.baseline,
            judge=self.judge if self.judge in scores else None,
            tokens=tokens,
            behaviour=context.world.behaviour if of_world else None,
        )
        samples = _samples(answers, scores, self)
        return {**found, "baseline": self.baseline, "judge": self.judge, "level": 0.95, "samples": samples}


def _token_statistics(rollouts: list[Rollout], engine: Engine, reference: Engine) -> list[TokenStatistics]:
    """Log-probs under policy and reference, and entropies, at each answer's actions."""
    batch = Batch.pack([r.sequence for r in rollouts])
    own = engine.frozen_logprobs(batch, entropy=True)
    comparable = same_tokenizer(engine.model, reference.model)
    other = given(reference.frozen_logprobs(batch).logp) if comparable else None
    sizes = torch.zeros(batch.size, dtype=torch.long).index_add(0, batch.seq, batch.action.long()).tolist()

    def split(x: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(x[batch.action], sizes)

    logp, entropy = split(given(own.logp)), split(given(own.entropy))
    if other is None:  # ids mean different things to the two, so there is no KL
        return [TokenStatistics(entropy=e.numpy()) for e in entropy]
    columns = zip(logp, split(other), entropy, strict=True)
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
