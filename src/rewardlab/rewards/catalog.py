"""Every kind of reward, and rewards and judges from settings: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, Field

from rewardlab.core import yaml_lines
from rewardlab.core.errors import UserError
from rewardlab.core.recipes import load_settings
from rewardlab.core.settings import Settings
from rewardlab.judges.base import Judge, JudgeSettings
from rewardlab.judges.catalog import AnyJudge
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Oracle, Reward, RewardSettings
from rewardlab.rewards.calibration import CalibratedSettings
from rewardlab.rewards.certainty import CertaintySettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.compose.choices import GateSettings, RouteSettings
from rewardlab.rewards.compose.extremes import ExtremeSettings
from rewardlab.rewards.compose.products import ProductSettings
from rewardlab.rewards.compose.shapes import BaselineSettings, ClipSettings, FlipSettings, SquashSettings
from rewardlab.rewards.compose.sums import SumSettings
from rewardlab.rewards.cycle import RegretSettings
from rewardlab.rewards.distribution import DistributionSettings
from rewardlab.rewards.diversity import DiversitySettings
from rewardlab.rewards.ensemble import EnsembleSettings
from rewardlab.rewards.foreign import TrlSettings, VerlSettings
from rewardlab.rewards.generative import GenerativeSettings
from rewardlab.rewards.implicit import ImplicitSettings
from rewardlab.rewards.majority import MajoritySettings
from rewardlab.rewards.matrix_entropy import MatrixEntropySettings
from rewardlab.rewards.rebuilding import CycleSettings
from rewardlab.rewards.remote import RemoteSettings
from rewardlab.rewards.rules.constraints import ConstraintsSettings
from rewardlab.rewards.rules.function import FunctionSettings
from rewardlab.rewards.rules.json_schema import JsonSchemaSettings
from rewardlab.rewards.rules.language import LanguageSettings
from rewardlab.rewards.rules.matching import ExactMatchSettings, MultipleChoiceSettings
from rewardlab.rewards.rules.mathematics import MathSettings
from rewardlab.rewards.rules.numbers import NumericSettings
from rewardlab.rewards.rules.regions import BoxSettings, SetF1Settings
from rewardlab.rewards.rules.shape import (
    LengthBandSettings,
    PatternSettings,
    RepetitionSettings,
    TagsSettings,
)
from rewardlab.rewards.rules.style import StyleSettings
from rewardlab.rewards.rules.unit_tests import UnitTestsSettings
from rewardlab.rewards.tournament import TournamentSettings

AnyReward = Annotated[
    SumSettings
    | ProductSettings
    | ExtremeSettings
    | GateSettings
    | RouteSettings
    | ClipSettings
    | SquashSettings
    | BaselineSettings
    | FlipSettings
    | LengthBandSettings
    | PatternSettings
    | TagsSettings
    | RepetitionSettings
    | StyleSettings
    | NumericSettings
    | MathSettings
    | ExactMatchSettings
    | MultipleChoiceSettings
    | ConstraintsSettings
    | JsonSchemaSettings
    | LanguageSettings
    | UnitTestsSettings
    | SetF1Settings
    | BoxSettings
    | FunctionSettings
    | TrlSettings
    | VerlSettings
    | RemoteSettings
    | CalibratedSettings
    | EnsembleSettings
    | GenerativeSettings
    | ImplicitSettings
    | TournamentSettings
    | DiversitySettings
    | DistributionSettings
    | RegretSettings
    | CycleSettings
    | MatrixEntropySettings
    | CertaintySettings
    | MajoritySettings,
    Field(discriminator="kind"),
]


class RewardsFile(Settings):
    """A file of rewards and judges: what these sections of a recipe are, on their own."""

    rewards: dict[str, AnyReward] = {}
    """Name -> settings of a reward."""
    judges: dict[str, AnyJudge] = {}
    """Name -> settings of a judge."""


def from_file(name: str) -> tuple[RewardsFile, str] | None:
    """What `file.yaml:name` names, or None for names of another form; a file of one thing needs no name."""
    file, suffix, wanted = name.partition(".yaml")
    if not suffix:
        return None
    found = load_settings(RewardsFile, Path(f"{file}.yaml")).value
    known = [*found.rewards, *found.judges]
    wanted = wanted.lstrip(":") or (known[0] if len(known) == 1 else "")
    if wanted not in known:
        raise UserError(f"{name!r} does not say which one.", f"Add `:name`; there are: {', '.join(known)}.")
    return found, wanted


class Book:
    """Rewards and judges by name, each built when it is first asked for and then kept; a `Resolver`.

    Rewards that are not in `settings` go to `outside`, models to `policy`. What is made of itself, directly
    or by way of others, is a UserError that shows the way. `tell` hears the `warning` of each reward that is
    built and has one.
    """

    def __init__(
        self,
        settings: Mapping[str, RewardSettings],
        outside: Callable[[str], Reward] | None = None,
        policy: Callable[[str], Engine] | None = None,
        judges: Mapping[str, JudgeSettings] | None = None,
        tell: Callable[[str], None] = lambda warning: None,
        oracle: Callable[[], Oracle] | None = None,
    ) -> None:
        self.settings, self.judges, self._tell, self._oracle = settings, judges or {}, tell, oracle
        self._outside, self._policy = outside, policy
        self._built: dict[str, Reward] = {}
        self._judges: dict[str, Judge] = {}
        self._open: list[str] = []

    def reward(self, name: str) -> Reward:
        """The reward of this name."""
        if name in self._built:
            return self._built[name]
        if name in self.judges:
            raise UserError(
                f"{name!r} is a judge, and a reward is needed.", "`kind: tournament` makes a reward of it."
            )
        if name not in self.settings:
            if self._outside is None:
                raise UserError(f"there is no reward {name!r}.", f"Known: {', '.join(self.settings)}.")
            return self._built.setdefault(name, self._outside(name))
        with self._making(name):
            found = self._built[name] = self.settings[name].build(name, self)
        if warning := getattr(found, "warning", ""):
            self._tell(warning)
        return found

    def judge(self, name: str) -> Judge:
        """The judge of this name."""
        if name in self._judges:
            return self._judges[name]
        if name not in self.judges:
            known = f"Known: {', '.join(self.judges)}." if self.judges else "Put it under `judges:`."
            raise UserError(f"there is no judge {name!r}.", known)
        with self._making(name):
            return self._judges.setdefault(name, self.judges[name].build(name, self))

    @contextmanager
    def _making(self, name: str) -> Iterator[None]:
        if name in self._open:
            way = " -> ".join([*self._open[self._open.index(name) :], name])
            raise UserError(f"{name!r} is made of itself: {way}.", "Break the circle.")
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()

    def policy(self, name: str) -> Engine:
        """A causal LM."""
        if self._policy is None:
            raise UserError(f"the policy {name!r} is not known here.", "Use this reward in a recipe.")
        return self._policy(name)

    def oracle(self) -> Oracle:
        """The best answers of the recipe's world."""
        if self._oracle is None:
            raise UserError("`oracle: world` is not known here.", "Use this reward in a recipe with a world.")
        return self._oracle()


def settings_of(reward: Reward) -> dict[str, RewardSettings]:
    """Settings of a reward and, before it, of all that it is made of, by name.

    What has no settings, such as a trained model or an object made in Python, is left to be found by its
    name. Two different rewards of one name are refused.
    """
    found: dict[str, RewardSettings] = {}

    def visit(name: str, source: Reward) -> None:
        if not isinstance(source, Composable) or source.settings is None:
            return
        for part, inner in source.parts.items():
            visit(part, inner)
        if found.setdefault(name, source.settings) != source.settings:
            raise UserError(f"two different rewards are called {name!r}.", "Give one another `.named(...)`.")

    visit(reward.name, reward)
    return found


def to_yaml(reward: Reward) -> str:
    """The `rewards:` section that makes this reward again; settings left at their default are left out."""
    found = settings_of(reward)
    if reward.name not in found:
        raise UserError(
            f"the reward {reward.name!r} was made in Python and has no YAML form.",
            "Put the function into a file and use `kind: function`.",
        )
    dumped = {name: {"kind": _kind(s), **_set(s)} for name, s in found.items()}
    return yaml_lines.dump({"rewards": dumped})


def _kind(settings: BaseModel) -> str:
    return str(settings.model_dump()["kind"])


def _set(settings: BaseModel) -> dict[str, object]:
    return settings.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})


def from_yaml(text: str, outside: Callable[[str], Reward] | None = None) -> Book:
    """Rewards and judges from what `to_yaml` gives or a recipe's `rewards:` and `judges:` sections."""
    data = yaml.safe_load(text)
    file = load_settings(RewardsFile, data if isinstance(data, dict) else {}).value
    return Book(file.rewards, outside, judges=file.judges)
