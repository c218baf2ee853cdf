"""A judge as the source of advantages: who beats whom within a group."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rewardlab.core.settings import Settings
from rewardlab.core.types import Rollout
from rewardlab.judges.base import Judge
from rewardlab.judges.flawed import NoisyJudge, PositionBiasedJudge
from rewardlab.judges.orders import BothOrders
from rewardlab.judges.scores import ScoreJudge
from rewardlab.rewards.base import Reward


class JudgeSettings(Settings):
    """A judge that compares answers by a reward's scores, with flaws where they are asked for."""

    reward: str
    """The reward that it goes by: a name as in the stage's own `reward`."""
    temperature: float = Field(default=1.0, ge=0)
    """P(first is better) = sigmoid(difference of scores / temperature); 0 takes the higher score."""
    noise_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of pairs whose verdict is turned round."""
    position_shift: float = 0.0
    """Added to the logit of the answer shown first."""
    both_orders: bool = True
    """Ask each pair in both orders and average; else the answer drawn first is shown first."""

    @model_validator(mode="after")
    def _shift_acts(self) -> JudgeSettings:
        if self.position_shift and not self.temperature:
            raise ValueError("position_shift does nothing to a judge of temperature 0, who is always certain")
        return self


def build_judge(reward: Reward, settings: JudgeSettings, seed: int) -> Judge:
    """The judge that the settings describe; the seed says which pairs the noise turns round."""
    judge: Judge = ScoreJudge(reward, temperature=settings.temperature)
    if settings.noise_rate:
        judge = NoisyJudge(judge, rate=settings.noise_rate, seed=seed)
    if settings.position_shift:
        judge = PositionBiasedJudge(judge, shift=settings.position_shift)
    return BothOrders(judge) if settings.both_orders else judge


def wins(judge: Judge, rollouts: list[Rollout], group: Tensor, ok: Tensor) -> tuple[Tensor, Tensor, int]:
    """(Float[N, N], Bool[N], pairs without a verdict): by how much each answer beats each of its group.

    d_ij = 2 P(i better than j) - 1 = -d_ji, between answers that are `ok`, all pairs asked in one call. A
    pair on which the judge abstains or fails has 0; an answer without any verdict is False in the second.
    """
    groups, allowed = group.tolist(), ok.tolist()
    asked = [
        (i, j)
        for i in range(len(rollouts))
        for j in range(i + 1, len(rollouts))
        if groups[i] == groups[j] and allowed[i] and allowed[j]
    ]
    verdicts = judge.compare([(rollouts[i], rollouts[j]) for i, j in asked]) if asked else []
    beats = torch.zeros(len(rollouts), len(rollouts))
    judged = torch.zeros(len(rollouts), dtype=torch.bool)
    missing = 0
    for (i, j), verdict in zip(asked, verdicts, strict=True):
        if verdict.first is None:
            missing += 1
            continue
        beats[i, j], beats[j, i] = 2 * verdict.first - 1, 1 - 2 * verdict.first
        judged[[i, j]] = True
    return beats, judged, missing
