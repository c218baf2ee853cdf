"""Every kind of judge that a recipe can name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rewardlab.judges.flawed import NoisySettings, PositionBiasedSettings
from rewardlab.judges.jury import JurySettings
from rewardlab.judges.orders import BothOrdersSettings
from rewardlab.judges.scores import OfRewardSettings
from rewardlab.judges.scripted import FunctionJudgeSettings, LongerSettings

AnyJudge = Annotated[
    OfRewardSettings
    | LongerSettings
    | FunctionJudgeSettings
    | NoisySettings
    | PositionBiasedSettings
    | JurySettings
    | BothOrdersSettings,
    Field(discriminator="kind"),
]
