"""Reward signals: anything with `score(rollouts) -> list[Score]`."""
