"""From rewards to a direction for each sequence or token. Made when a batch is filled, without gradient."""

from rewardlab.objectives.advantage.choice import ADVANTAGES, AdvantageName, by_name
from rewardlab.objectives.advantage.outcome import (
    gpg,
    group_relative,
    max_rl,
    opo,
    pass_at_k,
    reinforce_pp,
    reinforce_pp_baseline,
    remax,
    rloo,
)
from rewardlab.objectives.advantage.risk import Quantiles, bundle_scores, mixed_value_at_risk, riskpo
from rewardlab.objectives.advantage.several import gdpo, pairwise
from rewardlab.objectives.advantage.tokens import at_last_action, discounted_returns, gae, process

__all__ = [
    "ADVANTAGES",
    "AdvantageName",
    "Quantiles",
    "at_last_action",
    "bundle_scores",
    "by_name",
    "discounted_returns",
    "gae",
    "gdpo",
    "gpg",
    "group_relative",
    "max_rl",
    "mixed_value_at_risk",
    "opo",
    "pairwise",
    "pass_at_k",
    "process",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "remax",
    "riskpo",
    "rloo",
]
