"""What a score made of scores is: the rule for errors and abstentions, and the names of logged parts.

1. A part is *used* where the value depends on it: a gate that is shut does not use what lies behind it, a
   route uses the one reward it picks, a weight of 0 uses nothing.
2. If a used part is an error, the whole is an error. Nothing turns an error into a number.
3. Else, if a used part abstains, the whole abstains. `on_abstain: drop` (sum, minimum, maximum) leaves that
   part out instead; where every part abstains the whole abstains.
4. A value that is not finite is an error.

Every part that has a value is logged in `Score.parts` under its name, its own parts under `name/part`, and
its uncertainty under `name/uncertainty`; parts that are not used too. Values per token are not combined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Reward

OnAbstain = Literal["abstain", "drop"]
Named = Mapping[str, Score]


def score_where(reward: Reward, rollouts: Sequence[Rollout], where: Sequence[bool]) -> list[Score | None]:
    """The reward's scores of the rollouts that are wanted, None for the others."""
    wanted = [r for r, yes in zip(rollouts, where, strict=True) if yes]
    scores = iter(reward.score(wanted) if wanted else ())
    return [next(scores) if yes else None for yes in where]


def score_parts(parts: Mapping[str, Reward], rollouts: Sequence[Rollout]) -> list[dict[str, Score]]:
    """Per rollout, the score of every part by name."""
    columns = {name: reward.score(rollouts) for name, reward in parts.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(len(rollouts))]


def logged(scores: Named) -> dict[str, float]:
    """The numbers of these scores under their names."""
    found: dict[str, float] = {}
    for name, score in scores.items():
        if score.value is not None:
            found[name] = score.value
        if score.uncertainty is not None:
            found[f"{name}/uncertainty"] = score.uncertainty
        found |= {f"{name}/{k}": v for k, v in score.parts.items() if k != name}
    return found


def settle(
    used: Named,
    value: Callable[[dict[str, float]], float],
    *,
    unused: Named | None = None,
    on_abstain: OnAbstain = "abstain",
) -> Score:
    """The score of the whole from its parts; `value` sees the values of those that are used and have one."""
    parts = logged({**used, **(unused or {})})
    if broken := [f"{n}: {s.reason}" for n, s in used.items() if s.status == "error"]:
        return Score(None, "error", parts, "; ".join(broken))
    silent = [f"{n}: {s.reason}" for n, s in used.items() if s.status == "abstain"]
    if silent and (on_abstain == "abstain" or len(silent) == len(used)):
        return Score(None, "abstain", parts, "; ".join(silent))
    try:
        result = value({n: s.value for n, s in used.items() if s.value is not None})
    except OverflowError as error:
        return Score(None, "error", parts, str(error))
    if not math.isfinite(result):
        return Score(None, "error", parts, f"the combined value is {result}")
    return Score(result, parts=parts)


def by_name(rewards: Sequence[Reward]) -> dict[str, Reward]:
    """Rewards by name; two different ones of one name are refused, since their parts would be mixed up."""
    found: dict[str, Reward] = {}
    for reward in rewards:
        if found.setdefault(reward.name, reward) is not reward:
            raise UserError(
                f"two parts of one reward are called {reward.name!r}.",
                "Give one another name: `rl.reward(it, name='other')`.",
            )
    return found
