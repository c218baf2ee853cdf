"""Best-of-n sampling: what a reward buys without any training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator

from rewardlab.core.types import Score
from rewardlab.evaluation.best_of_n import best_of_n
from rewardlab.pipeline import rows
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage
from rewardlab.rollout.sampler import Sampler, drawing, to_rollouts

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class BestOfNStage(Stage):
    """Sample once, score once, and read off the best of n by the proxy for every n, gold beside it."""

    kind: Literal["best_of_n"] = "best_of_n"
    policy: str = "base"
    """Stage name, `base`, or a model folder."""
    rewards: dict[str, str] = Field(default={"proxy": "reward", "gold": "gold"}, min_length=1)
    """Column name -> reward."""
    proxy: str = "proxy"
    """The column that picks the answer."""
    sizes: list[int] = []
    """The n of the curve; left out, the powers of two up to samples_per_prompt."""
    data: Sources
    samples_per_prompt: int = Field(default=16, ge=1)
    """More than the largest n makes the estimates sharper."""
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""
    max_tokens: int = 1024
    """Longer prompts lose their left end; counted in the manifest."""

    @model_validator(mode="after")
    def _fits(self) -> BestOfNStage:
        if self.proxy not in self.rewards:
            raise ValueError(f"proxy {self.proxy!r} is not among the rewards {list(self.rewards)}")
        if wrong := [n for n in self.sizes if not 1 <= n <= self.samples_per_prompt]:
            raise ValueError(f"sizes {wrong} are not between 1 and samples_per_prompt")
        return self

    def references(self) -> list[tuple[str, str]]:
        """The policy and the rewards."""
        return [("policy", self.policy), *(("rewards", name) for name in self.rewards.values())]

    def run(self, context: Context) -> Outcome:
        """Sample, score, record, estimate."""
        seed = derive(context.recipe.seed, self.name)
        engine = context.policy(self.policy)
        prompts, ids = rows.prompts(context, self.data, self.name, engine.model.tokenizer, self.max_tokens)
        groups = Sampler(engine, drawing(self)).sample(
            ids, torch.Generator().manual_seed(seed), progress=context.progress
        )
        rollouts = to_rollouts(prompts, groups, engine)
        columns = {c: _values(context.reward(r, engine).score(rollouts)) for c, r in self.rewards.items()}
        context.run.stage(self.name).write_rollouts(0, rollouts, columns)
        context.peek_rollouts(rollouts, self.name)
        powers = [2**k for k in range(int(math.log2(self.samples_per_prompt)) + 1)]
        found = best_of_n(
            columns,
            [r.group for r in rollouts],
            proxy=self.proxy,
            sizes=sorted(set(self.sizes)) or powers,
            seed=seed,
        )
        for left_out in ("prompts_left_out", "answers_left_out"):
            if found[left_out]:
                context.warnings.append(f"{self.name}: {left_out.replace('_', ' ')}: {found[left_out]}.")
        largest = found["curve"][-1]
        final = {f"{c}_best_of_{largest['n']}": v["estimate"] for c, v in largest["rewards"].items()}
        return {"best_of_n": {"policy": self.policy, **found}, "final": final}


def _values(scores: list[Score]) -> list[float]:
    return [float("nan") if s.value is None else s.value for s in scores]
