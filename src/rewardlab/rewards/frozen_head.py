"""A linear head on frozen features as a reward: saved, loaded, and named in recipes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.feature_cache import CachedFeatures
from rewardlab.rewards.frozen_features import Features, FeatureSettings, build_features
from rewardlab.rewards.linear_head import LinearHead

FACTS = "head.json"
"""The file by which a folder is known to hold a frozen head."""


class FrozenHead:
    """score = w . features(prompt, answer) + b, in double precision; no gradient ever reaches the features.

    A score that is not finite is an error of that rollout. With the same features a score does not depend
    on what else is in the batch beyond rounding.
    """

    def __init__(self, name: str, features: Features, head: LinearHead) -> None:
        self.name, self.features, self.head = name, features, head

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        if not rollouts:
            return []
        values = self.head(self.features(rollouts)).tolist()
        return [
            Score(v, parts={self.name: v})
            if math.isfinite(v)
            else Score.error(f"{self.name}: the head gave {v}")
            for v in values
        ]


def save_frozen_head(
    folder: Path, head: LinearHead, settings: FeatureSettings, identity: str, facts: dict[str, Any]
) -> None:
    """Write `head.safetensors` and `head.json`; `identity` is that of the features it was fitted on."""
    folder.mkdir(parents=True, exist_ok=True)
    bias = np.array([head.bias])
    save_file({"weight": head.weight, "bias": bias}, folder / "head.safetensors")
    told = {"features": settings.model_dump(), "identity": identity, "l2": head.l2, **facts}
    (folder / FACTS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def is_frozen_head(folder: Path) -> bool:
    """Whether a folder holds a frozen head."""
    return (folder / FACTS).is_file()


def load_frozen_head(
    name: str, folder: Path, policy: Callable[[str], Engine], cache: Path | None = None
) -> FrozenHead:
    """A head from its folder; `policy` finds a causal backbone.

    Feature rows are kept in the folder that the head was trained with, else in `cache` if given.

    UserError if the folder holds no head, or if the features here are not those it was fitted on.
    """
    if not is_frozen_head(folder):
        raise UserError(f"{folder} holds no frozen head.", "Train one with a stage of kind `frozen_head`.")
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    features = build_features(FeatureSettings.model_validate(facts["features"]), policy)
    if features.identity != facts["identity"]:
        raise UserError(
            f"the head in {folder} was fitted on other features (another backbone, or other settings).",
            "Put the same backbone back, or train the head again.",
        )
    stored = load_file(folder / "head.safetensors")
    head = LinearHead(stored["weight"], float(stored["bias"][0]), facts["l2"], ())
    if facts.get("cache"):
        cache = Path(facts["cache"])
    return FrozenHead(name, CachedFeatures(features, cache) if cache else features, head)


class FrozenHeadSettings(RewardSettings):
    """A linear head that a stage of kind `frozen_head` trained."""

    kind: Literal["frozen_head"] = "frozen_head"
    folder: str
    """The stage's output folder."""
    cache: str | None = None
    """Folder where feature rows are kept between runs."""

    def build(self, name: str, resolver: Resolver) -> FrozenHead:
        """Load it."""
        cache = Path(self.cache) if self.cache else None
        return load_frozen_head(name, Path(self.folder), resolver.policy, cache)
