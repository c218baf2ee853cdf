"""The recipe: a list of stages, each with the settings of the components it uses."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from rewardlab.core.settings import Settings
from rewardlab.judges.base import JudgeSettings
from rewardlab.judges.catalog import AnyJudge
from rewardlab.models.engine import EngineSettings
from rewardlab.models.loading import ModelSettings
from rewardlab.pipeline.context import BUILT_IN_REWARDS
from rewardlab.pipeline.stages.audit import AuditStage
from rewardlab.pipeline.stages.benchmark_audit import BenchmarkAuditStage
from rewardlab.pipeline.stages.best_of_n import BestOfNStage
from rewardlab.pipeline.stages.distill import DistillStage
from rewardlab.pipeline.stages.dpo import DPOStage, ORPOStage, SimPOStage
from rewardlab.pipeline.stages.evaluate import EvaluateStage
from rewardlab.pipeline.stages.frozen_head import FrozenHeadStage
from rewardlab.pipeline.stages.grpo import (
    CISPOStage,
    GRPOStage,
    GSPOStage,
    GVPOStage,
    ReinforcePPStage,
    RiskPOStage,
    RLOOStage,
)
from rewardlab.pipeline.stages.hybrid import HybridStage
from rewardlab.pipeline.stages.iterative_dpo import IterativeDPOStage
from rewardlab.pipeline.stages.judge_audit import JudgeAuditStage
from rewardlab.pipeline.stages.kto import KTOStage
from rewardlab.pipeline.stages.on_policy_distill import OnPolicyDistillStage
from rewardlab.pipeline.stages.online_dpo import OnlineDPOStage
from rewardlab.pipeline.stages.pointwise_reward import PointwiseRewardStage
from rewardlab.pipeline.stages.ppo import PPOStage
from rewardlab.pipeline.stages.process_reward import ProcessRewardStage
from rewardlab.pipeline.stages.rejection_sampling import RejectionSamplingStage
from rewardlab.pipeline.stages.reward import RewardEnsembleStage, RewardStage
from rewardlab.pipeline.stages.reward_heads import RewardHeadsStage
from rewardlab.pipeline.stages.scratch import ScratchStage
from rewardlab.pipeline.stages.sft import SFTStage
from rewardlab.pipeline.stages.system_audit import SystemAuditStage
from rewardlab.pipeline.stages.win_rates import WinRatesStage
from rewardlab.rewards.base import RewardSettings
from rewardlab.rewards.catalog import AnyReward
from rewardlab.worlds.advice.world import AdviceSettings

AnyStage = Annotated[
    ScratchStage
    | SFTStage
    | RewardStage
    | RewardEnsembleStage
    | RewardHeadsStage
    | PointwiseRewardStage
    | ProcessRewardStage
    | DPOStage
    | ORPOStage
    | SimPOStage
    | KTOStage
    | OnlineDPOStage
    | IterativeDPOStage
    | GRPOStage
    | RLOOStage
    | ReinforcePPStage
    | GSPOStage
    | CISPOStage
    | GVPOStage
    | RiskPOStage
    | PPOStage
    | RejectionSamplingStage
    | HybridStage
    | DistillStage
    | OnPolicyDistillStage
    | AuditStage
    | EvaluateStage
    | BestOfNStage
    | FrozenHeadStage
    | WinRatesStage
    | SystemAuditStage
    | JudgeAuditStage
    | BenchmarkAuditStage,
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
    reference_cache: str | None = ".cache/logp_ref"
    """Folder, seen from the one that holds the run folders, where the log-probs of the policy that an offline
    stage starts from are kept for the next run (`rewardlab.models.reference_cache`). Delete it whenever you
    like; null computes them anew in each run."""
    rewards: dict[str, AnyReward] = {}
    """Name -> a reward; stages and other rewards use it by that name."""
    judges: dict[str, AnyJudge] = {}
    """Name -> a judge, which compares two answers; audits, tournaments and judges use it by that name."""
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
        self._check_made()
        earlier = ["base"]
        for number, stage in enumerate(self.stages):
            if stage.name in earlier:
                raise ValueError(f"two stages are called {stage.name!r}; give one another `name`")
            if self.world is None and any(d.source.split(":")[0] == "world" for d in stage.sources()):
                raise ValueError(f"stages.{stage.name}: `source: world`, but there is no `world:` section")
            later = [s.name for s in self.stages[number:]]
            for use, name in stage.references():
                judges = list(self.judges) if use in stage.judged else []
                if name in judges:
                    problem = self._unknown_judge(name, earlier, later)
                else:
                    problem = self._unknown(name, earlier, later, judges)
                if problem is not None:
                    raise ValueError(f"stages.{stage.name}.{use}: {problem}")
            earlier.append(stage.name)
        return self

    def _check_made(self) -> None:
        """No name is taken twice, and no reward or judge is made of itself."""
        others = ["base", "gold", *BUILT_IN_REWARDS, *(s.name for s in self.stages)]
        for book, taken in (("rewards", set(others)), ("judges", {*others, *self.rewards})):
            names: dict[str, Any] = getattr(self, book)
            if doubles := sorted(taken & set(names)):
                raise ValueError(f"{book}.{doubles[0]}: {doubles[0]!r} is something else already; rename it")
        for name in (*self.rewards, *self.judges):
            self._check_circle(name, (name,))

    def _check_circle(self, name: str, way: tuple[str, ...]) -> None:
        made: dict[str, RewardSettings | JudgeSettings] = {**self.rewards, **self.judges}
        for part in (*made[name].references(), *made[name].judges()):
            if part in way:
                circle = " -> ".join([*way[way.index(part) :], part])
                place = "rewards" if name in self.rewards else "judges"
                raise ValueError(f"{place}.{name}: {part!r} is made of itself: {circle}")
            if part in made:
                self._check_circle(part, (*way, part))

    def _unknown_judge(self, name: str, earlier: list[str], later: list[str]) -> str | None:
        """What is wrong with the name of a judge, or None; a judge is as good as all that it is made of."""
        if name not in self.judges:
            return f"{name!r} is no judge; known: {', '.join(self.judges) or 'none, there is no `judges:`'}"
        return self._unknown_part(f"judges.{name}", self.judges[name], earlier, later)

    def _unknown_part(
        self, place: str, made: RewardSettings | JudgeSettings, earlier: list[str], later: list[str]
    ) -> str | None:
        found = [self._unknown(p, earlier, later) for p in made.references()]
        found += [self._unknown_judge(p, earlier, later) for p in made.judges()]
        return next((f"{place}: {problem}" for problem in found if problem), None)

    def _unknown(
        self, name: str, earlier: list[str], later: list[str], judges: Sequence[str] = ()
    ) -> str | None:
        """What is wrong with a reference, or None; a reward is as good as all that it is made of."""
        if name in self.rewards:
            return self._unknown_part(f"rewards.{name}", self.rewards[name], earlier, later)
        if name in self.judges:
            return f"{name!r} is a judge; `kind: tournament` under `rewards:` makes a reward of it"
        known = [*earlier, *self.rewards, *judges, "gold", *BUILT_IN_REWARDS]
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
