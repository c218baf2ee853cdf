"""The advice world: short readable answers to how-to questions, whose gold reward is exact."""

from rewardlab.worlds.advice.gold import GoldReward, GoldSettings
from rewardlab.worlds.advice.labeller import LabellerSettings, bayes_accuracy
from rewardlab.worlds.advice.world import AdviceSettings, AdviceWorld
from rewardlab.worlds.advice.writers import WriterSettings

__all__ = [
    "AdviceSettings",
    "AdviceWorld",
    "GoldReward",
    "GoldSettings",
    "LabellerSettings",
    "WriterSettings",
    "bayes_accuracy",
]
