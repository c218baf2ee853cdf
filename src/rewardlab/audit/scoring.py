"""Preference pairs as rollouts, and their scores with the failures set apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewardlab.core.errors import UserError
from rewardlab.core.types import Messages, Pair, Prompt, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rows import better_first

Floats = NDArray[np.float64]
Scorer = Callable[[Sequence[Rollout]], Sequence[Score]]
Fill = Callable[[Rollout], Rollout]


def answer_text(messages: Messages) -> str:
    """The assistant's words of an answer; turns are joined by a line break."""
    return "\n".join(m.content for m in messages if m.role == "assistant")


def rollouts_of(pairs: Iterable[Pair], fill: Fill | None = None) -> list[Rollout]:
    """chosen, rejected, chosen, rejected, ... of each pair as rollouts with text.

    The prompt carries the pair's id, meta and place; `group` is the pair's index. Token ids are a
    placeholder of one token unless `fill` puts real ones in.
    """
    out = []
    for group, pair in enumerate(pairs):
        prompt = Prompt(pair.prompt, id=pair.id, meta=pair.meta, place=pair.place)
        for answer in (pair.chosen, pair.rejected):
            rollout = Rollout(prompt, Tokens((0,), (False,)), answer_text(answer), group)
            out.append(rollout if fill is None else fill(rollout))
    return out


def score_all(score: Scorer, rollouts: Sequence[Rollout]) -> list[Score]:
    """One score per rollout, or a UserError."""
    scores = list(score(rollouts))
    if len(scores) != len(rollouts):
        raise UserError(
            f"The reward returned {len(scores)} scores for {len(rollouts)} rollouts.",
            "Return one Score per rollout, in order; Score.error(reason) where there is no value.",
        )
    return scores


@dataclass(frozen=True)
class Scored:
    """P pairs whose two answers both have a value, winner first."""

    pairs: tuple[Pair, ...]
    rollouts: tuple[Rollout, ...]
    """[2P]: winner, loser, winner, loser, ..."""
    better: Floats
    """Float[P]: score of the labelled winner."""
    worse: Floats
    """Float[P]: score of the labelled loser."""
    counts: dict[str, int]
    reason: str = ""
    """Why the first excluded answer has no value."""

    @property
    def margin(self) -> Floats:
        """Float[P]: score of the winner minus that of the loser."""
        return self.better - self.worse

    @property
    def unit(self) -> float:
        """The reward's own standard deviation over all answers; 1 for a constant reward."""
        spread = float(np.concatenate([self.better, self.worse]).std(ddof=1))
        return spread if spread > 0 else 1.0

    @property
    def correct(self) -> Floats:
        """Float[P]: 1 where the winner scores higher, 1/2 at equal scores, else 0."""
        return (1 + np.sign(self.margin)) / 2

    def meta(self, *keys: str) -> tuple[NDArray[np.intp], list[Floats]]:
        """Which pairs have all these keys in their meta, and a Float array of each key's values there."""
        have = [i for i, p in enumerate(self.pairs) if all(p.meta.get(k) is not None for k in keys)]
        columns = [np.array([float(self.pairs[i].meta[k]) for i in have]) for k in keys]
        return np.array(have, dtype=np.intp), columns


def score_pairs(score: Scorer, pairs: Sequence[Pair], fill: Fill | None = None) -> Scored:
    """Score both answers of every pair; pairs labelled 1/2 and pairs without two values are counted."""
    decided = [better_first(p) for p in pairs if p.label != 0.5]
    rollouts = rollouts_of(decided, fill)
    scores = score_all(score, rollouts) if rollouts else []
    better, worse = scores[0::2], scores[1::2]
    keep = [i for i, (a, b) in enumerate(zip(better, worse)) if a.value is not None and b.value is not None]
    failed = [{a.status, b.status} for a, b in zip(better, worse) if a.status != "ok" or b.status != "ok"]
    reason = next((s.reason for s in scores if s.value is None), "")
    if not keep:
        raise UserError(
            f"None of the {len(pairs)} pairs could be scored{': ' + reason if reason else ''}.",
            "Pass pairs with a label other than 0.5 and a reward that returns values for them.",
        )
    counts = {
        "pairs": len(pairs),
        "used": len(keep),
        "label_ties": len(pairs) - len(decided),
        "errors": sum("error" in f for f in failed),
        "abstentions": sum("error" not in f for f in failed),
        "swapped_labels": sum(p.label < 0.5 for p in pairs),
        "soft_labels": sum(p.label not in (0.0, 0.5, 1.0) for p in pairs),
    }
    values = [(scores[2 * i].value, scores[2 * i + 1].value) for i in keep]
    table = np.array(values, dtype=np.float64)
    counts["score_ties"] = int((table[:, 0] == table[:, 1]).sum())
    kept = tuple(r for i in keep for r in rollouts[2 * i : 2 * i + 2])
    return Scored(tuple(decided[i] for i in keep), kept, table[:, 0], table[:, 1], counts, reason)
