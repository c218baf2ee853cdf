"""Policies side by side on the same prompts: `evaluate` returns one JSON-able dictionary."""

from __future__ import annotations

from rewardlab.evaluation.evaluate import evaluate
from rewardlab.evaluation.tokens import TokenStatistics

__all__ = ["TokenStatistics", "evaluate"]
