"""A look at what the policy writes, taken during training: proxy beside gold on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch

from rewardlab.core.types import Prompt
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Reward
from rewardlab.rollout.sampler import Sampler, SamplerSettings, to_rollouts


class Probe:
    """Samples the same prompts with the same uniforms each time, and scores them with every reward.

    Gives `eval_<reward>` (mean over ok scores), `eval_length` in tokens and `eval_stop_rate`. None of it
    reaches the learner.
    """

    def __init__(
        self,
        prompts: list[Prompt],
        ids: list[list[int]],
        sampler: SamplerSettings,
        rewards: list[Reward],
        seed: int,
    ) -> None:
        self.prompts, self.ids, self.rewards = prompts, ids, rewards
        self.settings, self.seed = sampler, seed

    def look(self, engine: Engine) -> Mapping[str, float]:
        """Numbers of the policy as it is now."""
        generator = torch.Generator().manual_seed(self.seed)
        groups = Sampler(engine, self.settings).sample(self.ids, generator)
        rollouts = to_rollouts(self.prompts, groups, engine)
        found = {
            "eval_length": fmean(r.sequence.actions for r in rollouts),
            "eval_stop_rate": fmean(r.sequence.stop == "stop" for r in rollouts),
        }
        for reward in self.rewards:
            values = [s.value for s in reward.score(rollouts) if s.value is not None]
            if values:
                found[f"eval_{reward.name}"] = fmean(values)
        return found
