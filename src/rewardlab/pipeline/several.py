"""Trained rewards that are several: ensembles of models, and heads on one trunk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rewardlab.models.engine import Engine
from rewardlab.models.loading import ModelSettings, load_policy, same_tokenizer
from rewardlab.records.atomic import read_json
from rewardlab.rewards.base import Reward
from rewardlab.rewards.disentangled import DisentangledReward
from rewardlab.rewards.ensemble import Ensemble
from rewardlab.rewards.heads import load_heads
from rewardlab.rewards.multi_objective import MultiObjectiveReward
from rewardlab.rewards.shared_trunk import SharedTrunkEnsemble

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


def several(context: Context, name: str, folder: Path, policy: Engine | None) -> Reward | None:
    """The reward of a `reward_ensemble` or `reward_heads` stage's output, or None for other folders."""
    if (folder / "ensemble.json").is_file():
        facts = read_json(folder / "ensemble.json")
        members = [context.reward(str(folder / member), policy) for member in facts["members"]]
        for number, member in enumerate(members):
            member.name = f"{name}.{number}"
        return Ensemble(name, members, aggregate=facts["aggregate"], penalty=facts["penalty"])
    if not (folder / "reward_heads.json").is_file():
        return None
    facts = read_json(folder / "reward_heads.json")
    beside = folder / facts["trunk"]
    path = str(beside) if beside.is_dir() else facts["trunk"]
    template = context.recipe.model.chat_template
    engine = context.engine(load_policy(ModelSettings(path=path, chat_template=template)))
    same = policy is not None and same_tokenizer(policy.model, engine.model)
    heads, limit = load_heads(folder), facts["max_tokens"]
    if facts["objective"] == "disentangled":
        return DisentangledReward(name, engine, heads, max_tokens=limit, reads_ids=same)
    if facts["objective"] == "multi_objective":
        weighting = load_heads(folder / "gate") if facts["weights"] is None else facts["weights"]
        return MultiObjectiveReward(name, engine, heads, weighting, max_tokens=limit, reads_ids=same)
    return SharedTrunkEnsemble(
        name,
        engine,
        heads,
        aggregate=facts["aggregate"],
        penalty=facts["penalty"],
        max_tokens=limit,
        reads_ids=same,
    )
