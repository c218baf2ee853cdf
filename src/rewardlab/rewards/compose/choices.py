"""Which reward counts for which rollout: gates and routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.composable import Composable
from rewardlab.rewards.compose.combining import score_where, settle


class GateSettings(RewardSettings):
    """value = `then` where `condition` >= threshold, else `otherwise`."""

    kind: Literal["gate"] = "gate"
    condition: str
    """Reward that must pass."""
    then: str
    """Reward that counts behind the gate; it is not computed for answers that do not pass."""
    threshold: float = 1.0
    otherwise: float = 0.0
    """Value of an answer that does not pass."""

    def references(self) -> list[str]:
        """Condition and consequence."""
        return [self.condition, self.then]

    def build(self, name: str, resolver: Resolver) -> Gate:
        """The gate between the rewards of these names."""
        return Gate(name, resolver.reward(self.condition), resolver.reward(self.then), self)


class Gate(Composable):
    """One reward only where another passes."""

    settings: GateSettings

    def __init__(self, name: str, condition: Reward, then: Reward, settings: GateSettings) -> None:
        self.name, self.settings = name, settings
        self.parts = {settings.condition: condition, settings.then: then}

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        s = self.settings
        first = self.parts[s.condition].score(rollouts)
        passed = [x.value is not None and x.value >= s.threshold for x in first]
        second = score_where(self.parts[s.then], rollouts, passed)
        out = []
        for condition, then in zip(first, second, strict=True):
            used = {s.condition: condition} | ({} if then is None else {s.then: then})
            out.append(settle(used, lambda v: v.get(s.then, s.otherwise)))
        return out


class RouteSettings(RewardSettings):
    """value = the reward that the prompt's domain picks."""

    kind: Literal["route"] = "route"
    field: str = "domain"
    """Key of the prompt's meta that holds the domain."""
    routes: dict[str, str] = Field(min_length=1)
    """Domain -> reward name."""
    default: str | None = None
    """Reward of every other domain; left out, such a prompt is an error."""

    def references(self) -> list[str]:
        """Every reward that a domain can pick."""
        return [*self.routes.values(), *([self.default] if self.default else [])]

    def build(self, name: str, resolver: Resolver) -> Route:
        """The route over the rewards of these names."""
        return Route(name, {part: resolver.reward(part) for part in self.references()}, self)


class Route(Composable):
    """Another reward for each domain; only the chosen one is computed."""

    settings: RouteSettings

    def __init__(self, name: str, parts: Mapping[str, Reward], settings: RouteSettings) -> None:
        self.name, self.parts, self.settings = name, dict(parts), settings

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        s = self.settings
        domains = [str(r.prompt.meta.get(s.field)) for r in rollouts]
        chosen = [s.routes.get(d, s.default) for d in domains]
        scores: list[Score] = [
            Score.error(f"{r.prompt.place}: no route for {s.field} {d!r}")
            for r, d in zip(rollouts, domains, strict=True)
        ]
        for name, part in self.parts.items():
            for i, score in enumerate(score_where(part, rollouts, [c == name for c in chosen])):
                if score is not None:
                    scores[i] = settle({name: score}, lambda v: sum(v.values()))
        return scores
