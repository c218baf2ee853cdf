"""Policy-gradient losses on the policy's own samples."""

from rewardlab.objectives.policy_gradient.aggregation import Aggregation, token_weights
from rewardlab.objectives.policy_gradient.gvpo import group_pairs, gvpo
from rewardlab.objectives.policy_gradient.methods import (
    METHODS,
    LossName,
    check_options,
    clipped,
    options_of,
    policy_gradient,
    prepare,
)
from rewardlab.objectives.policy_gradient.tokens import Losses, Tokens

__all__ = [
    "METHODS",
    "Aggregation",
    "LossName",
    "Losses",
    "Tokens",
    "check_options",
    "clipped",
    "group_pairs",
    "gvpo",
    "options_of",
    "policy_gradient",
    "prepare",
    "token_weights",
]
