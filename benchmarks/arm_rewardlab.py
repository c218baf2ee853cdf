"""rewardlab's arm: the loop and the algorithms as a recipe runs them, paced by the driver."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pacing import Pacer, arguments

from rewardlab.core.types import Example, Message, Prompt, Rollout, Score, Sequence
from rewardlab.data.rendering import render_example, render_prompt
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import Model, ModelSettings, load_policy, load_reward_model
from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.records.run import StageRecord
from rewardlab.rollout.sampler import Sampler, SamplerSettings
from rewardlab.training.algorithms.dpo import DPO
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.algorithms.reward import RewardModelling
from rewardlab.training.algorithms.sft import SFT
from rewardlab.training.experience import Experience
from rewardlab.training.loop import LoopSettings, train
from rewardlab.training.optimiser import OptimiserSettings
from rewardlab.training.pairs import PairRow


class Endless(Model):
    """A model that no token stops, so that every arm generates equally much."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return ()


class TextLength:
    """A reward that costs nothing: characters."""

    name = "characters"

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return [Score(float(len(r.text))) for r in rollouts]


class InOrder:
    """Rows in the order of the file, as the other arm takes them."""

    def __init__(self, rows: int, per_step: int) -> None:
        self.rows, self.per_step = rows, per_step

    def indices(self, step: int) -> list[int]:
        start = step * self.per_step
        return [i % self.rows for i in range(start, start + self.per_step)]


class Paced:
    """The loop's own progress, told when a step has ended."""

    def __init__(self, pacer: Pacer, tokens: Any) -> None:
        self.pacer, self.tokens = pacer, tokens

    @contextmanager
    def task(self, label: str, total: int, *, completed: int = 0) -> Iterator[Paced]:
        yield self

    def advance(self, amount: int = 1, numbers: Any = None) -> None:
        self.pacer.step(tokens=self.tokens(), loss=(numbers or {}).get("loss"))


def messages(turns: list[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(t["role"], t["content"]) for t in turns)


def main() -> None:
    a = arguments().parse_args()
    torch.set_num_threads(2)
    pacer = Pacer()
    rows = [json.loads(line) for line in a.rows.read_text().splitlines()]
    settings = EngineSettings(precision=a.precision)
    path = ModelSettings(path=str(a.model / "reward" if a.mode == "reward" else a.model))
    model = load_reward_model(path) if a.mode == "reward" else load_policy(path)
    if a.mode in ("grpo", "grpo-long-prompt", "sample"):
        model = Endless(model.net, model.tokenizer, model.source)
    engine = Engine(model, settings)

    def rendered(prompt: list[dict[str, str]], answer: list[dict[str, str]]) -> Sequence:
        return render_example(model.tokenizer, Example(messages(prompt + answer))).sequence

    algorithm: Any
    if a.mode == "sft":
        examples = [rendered(r["prompt"], r["completion"]) for r in rows]
        algorithm = SFT(engine, examples, [], rows_per_step=16, seed=0)
        algorithm.sampler = InOrder(len(rows), 16)
    elif a.mode in ("reward", "dpo"):
        pairs = [
            PairRow(rendered(r["prompt"], r["chosen"]), rendered(r["prompt"], r["rejected"])) for r in rows
        ]
        if a.mode == "reward":
            algorithm = RewardModelling(engine, pairs, [], pairs_per_step=8, centring=0.0, seed=0)
        else:
            algorithm = DPO(engine, pairs, [], pairs_per_step=8, settings=PreferenceSettings(), seed=0)
        algorithm.sampler = InOrder(len(rows), 8)
    else:
        prompts = [Prompt(messages(r["prompt"])) for r in rows]
        ids = [list(render_prompt(model.tokenizer, p)) for p in prompts]
        if a.mode == "sample":
            sampler = Sampler(engine, SamplerSettings(samples_per_prompt=8, max_new_tokens=a.new_tokens))
            generator, order = torch.Generator().manual_seed(0), InOrder(len(ids), 8)
            pacer.ready()
            for step in range(a.steps):
                groups = sampler.sample([ids[i] for i in order.indices(step)], generator)
                pacer.step(tokens=sum(s.actions for g in groups for s in g), loss=None)
            return
        grpo = GRPOSettings(
            prompts_per_step=8, samples_per_prompt=8, max_new_tokens=a.new_tokens, train_truncated=True,
            advantage="grpo_std", loss="dapo", kl_coefficient=0.0,
        )  # fmt: skip
        experience = Experience(engine, prompts, ids, TextLength(), grpo, prompts_at_once=8, seed=0)
        experience.rows = InOrder(len(rows), 8)
        algorithm = GRPO(engine, experience, grpo)

    counted: list[int] = []
    fill = algorithm.batches

    def batches(step: int) -> Any:
        found, numbers = fill(step)
        counted.append(sum(b.ids.numel() for b in found))
        return found, numbers

    algorithm.batches = batches
    optimiser = OptimiserSettings(
        learning_rate=1e-4, schedule="constant", warmup_fraction=0, beta2=0.999, max_grad_norm=1.0
    )
    loop = LoopSettings(steps=a.steps, checkpoint_every=10**9, optimiser=optimiser)
    pacer.ready()
    with tempfile.TemporaryDirectory() as folder:
        train(algorithm, loop, StageRecord("bench", Path(folder)), progress=Paced(pacer, lambda: counted[-1]))


if __name__ == "__main__":
    main()
