"""The recipe: a list of stages, each with the settings of the components it uses."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rewardlab.core.settings import Settings
from rewardlab.data.settings import DataSettings
from rewardlab.models.engine import EngineSettings
from rewardlab.models.loading import LoraSettings, ModelSettings
from rewardlab.models.scratch import ScratchSettings
from rewardlab.training.algorithms.grpo import GRPOSettings
from rewardlab.training.loop import LoopSettings
from rewardlab.worlds.advice.world import AdviceSettings

BUILT_IN_REWARDS = ("gold", "numeric_answer", "length")
"""Rewards by name: `gold` is the world's."""


class StageData(DataSettings):
    """Rows of a stage: a file or dataset, or `world` for rows made by the recipe's world.

    `world` gives demonstrations, pairs or prompts as the stage needs them; `world:base_text` gives text
    of every quality.
    """

    rows: int = 1000
    """How many rows the world makes; files give all they have, or `limit`."""
    split: Literal["train", "heldout"] = "train"
    """The world's topics that training may see or those kept for evaluation; of a file that is divided by
    `heldout_fraction`, the one part or the other."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Sources = Annotated[list[StageData], BeforeValidator(_as_list)]
"""One source or several, whose rows are put together."""


class Stage(Settings):
    """What every stage has."""

    name: str = ""
    """Unique in the recipe; the stage's kind where it is left out."""

    @model_validator(mode="before")
    @classmethod
    def _name_is_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("name"):
            kind = value.get("kind", cls.model_fields["kind"].default)
            return {**value, "name": kind}
        return value

    def references(self) -> list[tuple[str, str]]:
        """(setting, name) of every model or reward that this stage takes by name."""
        probe: ProbeSettings | None = getattr(self, "probe", None)
        return [("probe.rewards", name) for name in (probe.rewards if probe else ())]

    def sources(self) -> list[StageData]:
        """Every source of rows that this stage reads."""
        probe: ProbeSettings | None = getattr(self, "probe", None)
        held_out: list[StageData] | None = getattr(self, "held_out", None)
        return [*getattr(self, "data", ()), *(held_out or ()), *(probe.data if probe else ())]


class ProbeSettings(Settings):
    """Held-out prompts that are answered and scored at each evaluation of a policy stage."""

    data: Sources
    rewards: list[str] = ["gold"]
    """Stage names of reward models, or built-in rewards: gold, numeric_answer, length."""
    max_new_tokens: int = 64
    temperature: float = 1.0


class TrainingStage(Stage, LoopSettings):
    """What every stage that trains has."""

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


class ScratchStage(Stage, ScratchSettings):
    """A new model folder: a tokenizer trained on the data's text, and random weights."""

    kind: Literal["scratch"] = "scratch"
    data: Sources
    """Rows whose text trains the tokenizer: conversations or pairs, as `text_from` says."""
    text_from: Literal["examples", "pairs"] = "examples"


class SFTStage(TrainingStage):
    """Supervised fine-tuning."""

    kind: Literal["sft"] = "sft"
    rows_per_step: int = 32
    train_on: Literal["assistant", "all"] = "assistant"
    """`all` trains on every message, as in pretraining."""
    probe: ProbeSettings | None = None


class RewardStage(TrainingStage):
    """A Bradley-Terry reward model."""

    kind: Literal["reward"] = "reward"
    pairs_per_step: int = 32
    centring: float = 0.01
    """Weight of (s_chosen + s_rejected)^2, which keeps scores around zero."""


class DPOStage(TrainingStage):
    """Direct preference optimisation."""

    kind: Literal["dpo"] = "dpo"
    pairs_per_step: int = 32
    beta: float = 0.1
    """Strength of the pull to the starting policy; lower moves further."""
    label_smoothing: float = 0.0
    probe: ProbeSettings | None = None


class GRPOStage(TrainingStage, GRPOSettings):
    """Group-relative policy optimisation against a reward."""

    kind: Literal["grpo"] = "grpo"
    reward: str = "reward"
    """Stage name of a reward model, a model folder, or a built-in reward."""
    observe: list[str] = []
    """Rewards scored on the same answers for the record; they never reach the learner."""
    probe: ProbeSettings | None = None

    def references(self) -> list[tuple[str, str]]:
        """The reward, and those that are only observed."""
        observed = [("observe", name) for name in self.observe]
        return [("reward", self.reward), *observed, *super().references()]


class AuditStage(Stage):
    """Report card of a reward on held-out pairs."""

    kind: Literal["audit"] = "audit"
    reward: str = "reward"
    """Stage name of a reward model, a model folder, or a built-in reward."""
    data: Sources

    def references(self) -> list[tuple[str, str]]:
        """The reward."""
        return [("reward", self.reward)]


class EvaluateStage(Stage):
    """Policies side by side on the same prompts."""

    kind: Literal["evaluate"] = "evaluate"
    policies: list[str] = ["base"]
    """Stage names, `base`, or model folders."""
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
    samples_in_report: int = 40
    max_tokens: int = 1024

    @model_validator(mode="after")
    def _names(self) -> EvaluateStage:
        if self.baseline not in self.policies:
            raise ValueError(f"baseline {self.baseline!r} is not among the policies {self.policies}")
        if self.rewards and self.judge not in self.rewards:
            raise ValueError(f"judge {self.judge!r} is not among the rewards {list(self.rewards)}")
        return self

    def references(self) -> list[tuple[str, str]]:
        """Policies, the reference, and the rewards."""
        policies = [("policies", name) for name in (*self.policies, self.reference)]
        return [*policies, *(("rewards", name) for name in self.rewards.values())]


AnyStage = Annotated[
    ScratchStage | SFTStage | RewardStage | DPOStage | GRPOStage | AuditStage | EvaluateStage,
    Field(discriminator="kind"),
]


class Recipe(Settings):
    """A whole run."""

    name: str
    """The run's folder under `runs/`."""
    question: str = ""
    """What this run is to find out; the report opens with it."""
    seed: int = 0
    """Every random draw of the run derives from it and the stage's name."""
    model: ModelSettings
    """The base model."""
    world: AdviceSettings | None = None
    """The synthetic world that `source: world` and the reward `gold` refer to."""
    data_root: str = "."
    """Folder that relative sources start from."""
    engine: EngineSettings = EngineSettings()
    stages: list[AnyStage]

    @model_validator(mode="before")
    @classmethod
    def _short_model(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("model"), str):
            return {**value, "model": {"path": value["model"]}}
        return value

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        """Every name a stage refers to exists by the time it runs: found out now, not after hours."""
        earlier = ["base"]
        for number, stage in enumerate(self.stages):
            if stage.name in earlier:
                raise ValueError(f"two stages are called {stage.name!r}; give one another `name`")
            if self.world is None and any(d.source.split(":")[0] == "world" for d in stage.sources()):
                raise ValueError(f"stages.{stage.name}: `source: world`, but there is no `world:` section")
            later = [s.name for s in self.stages[number:]]
            for use, name in stage.references():
                if (problem := self._unknown(name, earlier, later)) is not None:
                    raise ValueError(f"stages.{stage.name}.{use}: {problem}")
            earlier.append(stage.name)
        return self

    def _unknown(self, name: str, earlier: list[str], later: list[str]) -> str | None:
        """What is wrong with a reference, or None."""
        known = [*earlier, *BUILT_IN_REWARDS]
        if name == "gold" and self.world is None:
            return "the reward 'gold' is the world's, and there is no `world:` section"
        if name in known or _is_path(name):
            return None
        if name in later:
            return f"{name!r} is used before it has run; move it up"
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"{name!r} is no earlier stage, reward or folder; {hint}"


def _is_path(name: str) -> bool:
    return "/" in name or name.startswith("embedded:") or Path(name).exists()
