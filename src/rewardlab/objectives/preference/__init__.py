"""Preference losses on policy log-probs.

`preference` trains on any of the losses in `losses.py`, or a weighted sum of them, by name; `dpo` is its
oldest member with two knobs. Losses that need more than the pairs at hand stand beside it: `matching`
(whole-step transport), `unpaired` (KTO), `token_kl` (TDPO).
"""

from rewardlab.objectives.preference.deviation import combined_deviation, deviation, deviation_weight
from rewardlab.objectives.preference.divergence import divergence_score
from rewardlab.objectives.preference.likelihood import likelihood_weight
from rewardlab.objectives.preference.matching import match
from rewardlab.objectives.preference.mixture import dpo, preference, running_delta
from rewardlab.objectives.preference.settings import Losses, LossName, PreferenceSettings
from rewardlab.objectives.preference.token_kl import tdpo
from rewardlab.objectives.preference.unpaired import implicit_outcome, implicit_reward, kl_baseline, kto

__all__ = [
    "LossName",
    "Losses",
    "PreferenceSettings",
    "combined_deviation",
    "deviation",
    "deviation_weight",
    "divergence_score",
    "dpo",
    "implicit_outcome",
    "implicit_reward",
    "kl_baseline",
    "kto",
    "likelihood_weight",
    "match",
    "preference",
    "running_delta",
    "tdpo",
]
