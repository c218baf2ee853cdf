"""Losses of reward heads: pairs, single answers, steps, levels, and the update of smoothed labels."""

from rewardlab.objectives.reward.disentangled import disentangled
from rewardlab.objectives.reward.pairwise import bradley_terry, pair_label, pair_weight, soft_logistic, yes_no
from rewardlab.objectives.reward.pointwise import ordinal, outcome, process, regression, sequence_weight
from rewardlab.objectives.reward.smoothing import smoothed_label

__all__ = [
    "bradley_terry",
    "disentangled",
    "ordinal",
    "outcome",
    "pair_label",
    "pair_weight",
    "process",
    "regression",
    "sequence_weight",
    "smoothed_label",
    "soft_logistic",
    "yes_no",
]
