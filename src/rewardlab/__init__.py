"""rewardlab: know your reward before you train on it, then train on it.

The names a notebook needs are here; everything else is importable from where it lives.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardlab.audit import audit_reward as audit_reward
    from rewardlab.core.types import Message as Message
    from rewardlab.core.types import Pair as Pair
    from rewardlab.core.types import Prompt as Prompt
    from rewardlab.core.types import Rollout as Rollout
    from rewardlab.core.types import Score as Score
    from rewardlab.evaluation import evaluate as evaluate
    from rewardlab.pipeline.recipe import Recipe as Recipe
    from rewardlab.pipeline.run import run_recipe as run_recipe
    from rewardlab.rewards.composable import maximum as maximum
    from rewardlab.rewards.composable import minimum as minimum
    from rewardlab.rewards.composable import reward as reward
    from rewardlab.worlds.advice import AdviceWorld as AdviceWorld

_HOMES = {
    "AdviceWorld": "worlds.advice",
    "Message": "core.types",
    "Pair": "core.types",
    "Prompt": "core.types",
    "Recipe": "pipeline.recipe",
    "Rollout": "core.types",
    "Score": "core.types",
    "audit_reward": "audit",
    "evaluate": "evaluation",
    "maximum": "rewards.composable",
    "minimum": "rewards.composable",
    "reward": "rewards.composable",
    "run_recipe": "pipeline.run",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that `import rewardlab` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rewardlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rewardlab.{_HOMES[name]}"), name)
