"""Which rollouts of each policy answer which prompt. The prompt is the unit of every interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout


@dataclass(frozen=True, slots=True)
class Alignment:
    """P prompts and, per policy, the positions of each prompt's rollouts in that policy's list."""

    prompts: tuple[str, ...]
    rows: Mapping[str, tuple[tuple[int, ...], ...]]
    """policy -> [P] -> positions."""


def align(rollouts: Mapping[str, Sequence[Rollout]]) -> Alignment:
    """Match the policies' rollouts by `Prompt.id`; every policy must answer the same ids.

    Rollouts with one id are samples of one prompt, wherever they stand; prompts keep the order of the
    first policy. A missing id or a differing set of prompts is a UserError.
    """
    if not rollouts:
        raise UserError("There is no policy to evaluate.", "Pass at least one list of rollouts.")
    grouped: dict[str, dict[str, list[int]]] = {}
    for policy, answers in rollouts.items():
        found: dict[str, list[int]] = {}
        for position, rollout in enumerate(answers):
            if not rollout.prompt.id:
                raise UserError(
                    f"{rollout.prompt.place or f'rollout {position} of {policy}'}: the prompt has no id.",
                    "Give each prompt an id, so that the same prompts are compared.",
                )
            found.setdefault(rollout.prompt.id, []).append(position)
        grouped[policy] = found
    first = next(iter(grouped))
    prompts = tuple(grouped[first])
    if not prompts:
        raise UserError(f"Policy {first} has no rollouts.", "Generate answers before evaluating.")
    for policy in grouped:
        for has, lacks in ((first, policy), (policy, first)):
            absent = [i for i in grouped[has] if i not in grouped[lacks]]
            if absent:
                raise UserError(
                    f"Policy {lacks} did not answer {len(absent)} prompts that {has} did, "
                    f"such as {absent[0]!r}.",
                    "Sample every policy on one list of prompts.",
                )
    rows = {p: tuple(tuple(found[i]) for i in prompts) for p, found in grouped.items()}
    return Alignment(prompts, rows)
