"""Rewards that are programs: each a pure function of the answer and the prompt's meta, and its settings."""

from __future__ import annotations

from rewardlab.rewards.rules.extraction import final_number
from rewardlab.rewards.rules.numbers import NumericAnswer
from rewardlab.rewards.rules.shape import TextLength

__all__ = ["NumericAnswer", "TextLength", "final_number"]
