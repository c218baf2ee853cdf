"""What the stages of one run share: the record, the world, models and rewards by name."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from rewardlab.core.errors import UserError
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.types import Rollout, Sequence
from rewardlab.data.peek import format_rendered
from rewardlab.judges.base import Judge
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import (
    Model,
    ModelSettings,
    load_policy,
    load_reward_model,
    same_tokenizer,
)
from rewardlab.models.reference_cache import ReferenceCache
from rewardlab.pipeline.several import several
from rewardlab.records.run import Run
from rewardlab.rewards.answer_style import AnswerStyle
from rewardlab.rewards.base import Oracle, Reward
from rewardlab.rewards.catalog import Book
from rewardlab.rewards.frozen_head import is_frozen_head, load_frozen_head
from rewardlab.rewards.label_units import in_label_units
from rewardlab.rewards.learned import LearnedReward
from rewardlab.rewards.process import ProcessReward
from rewardlab.rewards.rules import NumericAnswer, TextLength
from rewardlab.worlds.advice.world import AdviceWorld

if TYPE_CHECKING:
    from rewardlab.pipeline.recipe import Recipe

BUILT_IN_REWARDS: dict[str, Callable[[], Reward]] = {
    "numeric_answer": NumericAnswer,
    "length": TextLength,
    "answer_style": AnswerStyle,
}
"""Rewards that a recipe names; `gold` is the world's."""


@dataclass
class Context:
    """A run in progress."""

    recipe: Recipe
    run: Run
    progress: Progress = NO_PROGRESS
    peek: int = 0
    """Show this many rendered rows and rollouts of each stage."""
    show: Callable[[object], None] = print
    """Where peeked rows go."""
    warnings: list[str] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    _books: weakref.WeakKeyDictionary[Engine, Book] = field(default_factory=weakref.WeakKeyDictionary)

    @functools.cached_property
    def world(self) -> AdviceWorld:
        """The recipe's world."""
        if self.recipe.world is None:
            raise UserError(
                "the recipe uses `source: world` or the reward `gold` but has no `world:` section.",
                "Add `world: {}` for the default advice world, or name a file and another reward.",
            )
        return AdviceWorld(self.recipe.world)

    def engine(self, model: Model) -> Engine:
        """An engine with the recipe's settings."""
        return Engine(model, self.recipe.engine)

    def reference_cache(self, engine: Engine) -> ReferenceCache | None:
        """What earlier runs computed of this policy's log-probs, where the recipe keeps them."""
        if self.recipe.reference_cache is None:
            return None
        return ReferenceCache(self.run.folder.parent / self.recipe.reference_cache, engine)

    def model_settings(self, name: str) -> ModelSettings:
        """`base`, the output of an earlier stage, or a model path."""
        if name == "base":
            return self.recipe.model
        if name in {s.name for s in self.recipe.stages}:
            record = self.run.stage(name)
            if record.done() is None:
                raise UserError(
                    f"the stage {name!r} is used before it has run.", "Move it up in the recipe's `stages`."
                )
            return ModelSettings(path=str(record.output), chat_template=self.recipe.model.chat_template)
        if name.startswith("embedded:") or Path(name).exists():
            return ModelSettings(path=name, chat_template=self.recipe.model.chat_template)
        stages = ", ".join(s.name for s in self.recipe.stages)
        raise UserError(
            f"{name!r} is neither a stage of this recipe nor a model folder.", f"Stages: base, {stages}."
        )

    def policy(self, name: str) -> Engine:
        """A causal LM, ready to compute."""
        return self.engine(load_policy(self.model_settings(name)))

    def reward(self, name: str, policy: Engine | None = None) -> Reward:
        """A reward of the recipe, the world's `gold`, a built-in one, or a trained reward model.

        What a recipe's reward is made of is built once per policy, and kept as long as the policy lives.
        """
        if name not in self.recipe.rewards:
            return self._other_reward(name, policy)
        if policy is None:
            return self._book(self._other_reward).reward(name)
        if policy not in self._books:
            alive = weakref.ref(policy)
            self._books[policy] = self._book(lambda other: self._other_reward(other, alive()))
        return self._books[policy].reward(name)

    def judge(self, name: str) -> Judge:
        """A judge of the recipe."""
        return self._book(self._other_reward).judge(name)

    def _book(self, other_reward: Callable[[str], Reward]) -> Book:
        r = self.recipe
        return Book(r.rewards, other_reward, self.policy, r.judges, self.warn_once, self.oracle)

    def oracle(self) -> Oracle:
        """The world's best answer to each of its own prompts."""
        if self.recipe.world is None:
            raise UserError("`oracle: world` needs a `world:` section.", "Add `world: {}`, or use `field`.")
        world = self.world
        return lambda prompt: [world.best_answer(prompt)] if world.knows(prompt) else []

    def warn_once(self, warning: str) -> None:
        """Keep a warning that may come again and again in this run, the first time."""
        if warning not in self._told:
            self._told.add(warning)
            self.warnings.append(warning)

    def _other_reward(self, name: str, policy: Engine | None = None) -> Reward:
        """The world's `gold`, a built-in reward, or a trained reward model by stage name or folder."""
        if name == "gold":
            return self.world.gold
        if name in BUILT_IN_REWARDS:
            return BUILT_IN_REWARDS[name]()
        settings = self.model_settings(name)
        if is_frozen_head(Path(settings.path)):
            return load_frozen_head(name, Path(settings.path), self.policy, self.run.folder / "features")
        if (found := several(self, name, Path(settings.path), policy)) is not None:
            return found
        return trained_reward(name, settings, self.recipe.engine, policy)

    def take_warnings(self) -> list[str]:
        """The warnings since the last call."""
        taken, self.warnings = self.warnings, []
        return taken

    def peek_at(self, rendered: list[Sequence], tokenizer: object, title: str) -> None:
        """Show the first rows as the model sees them, trained tokens in colour."""
        for number, sequence in enumerate(rendered[: self.peek]):
            self.show(f"{title} {number + 1}")
            self.show(format_rendered(tokenizer, sequence))

    def peek_rollouts(self, rollouts: list[Rollout], title: str) -> None:
        """Show the first answers with their reward parts."""
        for number, rollout in enumerate(rollouts[: self.peek]):
            text = Text(f"{title} {number + 1} ({rollout.sequence.stop})\n", style="bold")
            for message in rollout.prompt.messages:
                text.append(f"{message.role}: {message.content}\n", style="dim")
            text.append(f"{rollout.text}\n", style="green")
            if (score := rollout.score) is not None:
                parts = "  ".join(f"{k} {v:.3g}" for k, v in score.parts.items() if v)
                value = score.status if score.value is None else f"{score.value:.3g}"
                text.append(f"score {value}   {parts} {score.reason}", style="cyan")
            self.show(text)


def trained_reward(
    name: str, settings: ModelSettings, engine: EngineSettings, policy: Engine | None = None
) -> Reward:
    """A reward model, or a process reward model, from its folder or id.

    A reward model with the policy's own tokenizer scores its ids rather than their text; a process reward
    model always reads text.
    """
    judge = Engine(load_reward_model(settings), engine)
    process = Path(settings.path) / "process.json"
    if process.is_file():
        return ProcessReward(name, judge, **json.loads(process.read_text()))
    file = Path(settings.path) / "reward.json"  # there if we trained it
    facts = json.loads(file.read_text()) if file.is_file() else {}
    return LearnedReward(
        name,
        judge,
        offset=facts.get("offset", 0.0),
        max_tokens=facts.get("max_tokens"),
        reads_ids=policy is not None and same_tokenizer(policy.model, judge.model),
        whole=not facts,
        unit=in_label_units(facts["labels"]) if "labels" in facts else float,
    )
