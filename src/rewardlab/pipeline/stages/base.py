"""What every stage has, and what every stage that trains has."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, model_validator

from rewardlab.core.settings import Settings
from rewardlab.data.settings import DataSettings
from rewardlab.models.engine import Engine
from rewardlab.models.loading import LoraSettings, Model, add_lora, load_policy, save
from rewardlab.pipeline.seeds import derive
from rewardlab.records.atomic import write_folder
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import Callback, LoopSettings, train

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

Outcome = dict[str, Any]
"""What a stage leaves: `steps`, `seconds` and `final` metrics, and whatever it adds to summary.json."""


class StageData(DataSettings):
    """Rows of a stage: a file or dataset, or `world` for rows made by the recipe's world.

    `world` gives demonstrations, pairs, rated answers or prompts as the stage needs them; `world:base_text`
    gives text of every quality.
    """

    rows: int = 1000
    """How many rows the world makes; files give all they have, or `limit`."""
    split: Literal["train", "heldout"] = "train"
    """The world's topics that training may see or those kept for evaluation; of a file that is divided by
    `heldout_fraction`, the one part or the other."""


def as_list(value: Any) -> Any:
    """One source is a list of one."""
    return value if isinstance(value, list) else [value]


Sources = Annotated[list[StageData], BeforeValidator(as_list)]
"""One source or several, whose rows are put together."""


class ProbeSettings(Settings):
    """Held-out prompts that are answered and scored at each evaluation of a policy stage."""

    data: Sources
    rewards: list[str] = ["gold"]
    """Stage names of reward models, or built-in rewards: gold, numeric_answer, length."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""


class Stage(Settings):
    """One entry of a recipe's `stages`: its settings, and how to run it."""

    judged: ClassVar[tuple[str, ...]] = ()
    """Settings that may name a judge of the recipe in place of a reward."""
    name: str = ""
    """Unique in the recipe; the stage's kind where it is left out."""

    @abstractmethod
    def run(self, context: Context) -> Outcome:
        """Do the work; the record of this stage is `context.run.stage(self.name)`."""

    def references(self) -> list[tuple[str, str]]:
        """(setting, name) of every model or reward that this stage takes by name."""
        probe: ProbeSettings | None = getattr(self, "probe", None)
        return [("probe.rewards", name) for name in (probe.rewards if probe else ())]

    def sources(self) -> list[StageData]:
        """Every source of rows that this stage reads."""
        probe: ProbeSettings | None = getattr(self, "probe", None)
        held_out: list[StageData] | None = getattr(self, "held_out", None)
        return [*getattr(self, "data", ()), *(held_out or ()), *(probe.data if probe else ())]

    @model_validator(mode="before")
    @classmethod
    def _name_is_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("name"):
            kind = value.get("kind", cls.model_fields["kind"].default)
            return {**value, "name": kind}
        return value


class TrainingStage(Stage, LoopSettings):
    """A stage that trains a model: where it starts, on what, and the loop's settings."""

    init: str = "base"
    """The stage whose output is the starting point; `base` is the recipe's `model`."""
    data: Sources
    held_out: Sources | None = None
    """Rows for evaluation during training; without it `data.heldout_fraction` sets some aside."""
    lora: LoraSettings | None = None
    """Train adapters instead of all weights."""
    max_tokens: int = 1024
    """Longer rows lose the left end of their prompt; counted in the manifest."""

    def references(self) -> list[tuple[str, str]]:
        """The starting point, and what the probe needs."""
        return [("init", self.init), *super().references()]

    def seed(self, context: Context) -> int:
        """The stage's own seed."""
        return derive(context.recipe.seed, self.name)

    def policy(self, context: Context) -> Engine:
        """The policy to train, adapters on it where asked, with the stage's seed set."""
        torch.manual_seed(self.seed(context))
        return context.engine(self.adapt(context, load_policy(context.model_settings(self.init))))

    def adapt(self, context: Context, model: Model, *, reward_head: bool = False) -> Model:
        """Adapters on the model where `lora` is set."""
        if self.lora is None:
            return model
        return add_lora(model, self.lora, reward_head=reward_head, seed=self.seed(context))

    def fit(self, context: Context, algorithm: Algorithm, *callbacks: Callback) -> Outcome:
        """Run the loop and save the model as this stage's output."""
        record = context.run.stage(self.name)
        at = train(algorithm, self, record, progress=context.progress, callbacks=callbacks)
        write_folder(record.output, lambda folder: save(algorithm.engine.model, folder))
        if at.skipped:
            context.warnings.append(f"{self.name}: {at.skipped} updates were not finite and were skipped.")
        return {"steps": at.step, "seconds": at.seconds, "final": at.last}
