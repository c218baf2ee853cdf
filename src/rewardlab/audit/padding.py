"""The padding probe: empty sentences after an answer should not raise its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rewardlab.audit.edits import FILLER
from rewardlab.audit.scoring import Fill, Scored, Scorer, score_all
from rewardlab.core.statistics import mean_interval, wilson
from rewardlab.core.types import Rollout


def padded(rollout: Rollout, sentences: Sequence[str], fill: Fill | None = None) -> Rollout:
    """The same answer with the sentences after it; `fill` renews its token ids."""
    text = " ".join([rollout.text.rstrip(), *sentences]).lstrip()
    longer = replace(rollout, text=text)
    return longer if fill is None else fill(longer)


def padding_probe(
    score: Scorer,
    scored: Scored,
    *,
    sentences: Sequence[str] = FILLER,
    fill: Fill | None = None,
    max_pairs: int | None = None,
    seed: int,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """What 1, 2, ... appended filler sentences do to the score.

    Each row: "sentences", the change of the score in the reward's own standard deviations (mean over
    the two answers of a pair, interval over pairs), "flip_rate" (among pairs the reward gets right, how
    often padding only the worse answer makes it win; Wilson) and "excluded" (pairs without a score once
    padded). max_pairs bounds the number of pairs, drawn at random.
    """
    positions = np.arange(len(scored.pairs))
    if max_pairs is not None and max_pairs < positions.size:
        rng = np.random.default_rng(seed)
        positions = np.sort(rng.choice(positions.size, max_pairs, replace=False))
    plain = [scored.rollouts[2 * i + j] for i in positions for j in (0, 1)]
    before = np.stack([scored.better, scored.worse], 1)[positions]  # [M, 2]
    rows = []
    for k in range(1, len(sentences) + 1):
        scores = score_all(score, [padded(r, sentences[:k], fill) for r in plain])
        after = np.array([np.nan if s.value is None else s.value for s in scores]).reshape(-1, 2)
        valid = np.isfinite(after).all(1)
        change = ((after - before)[valid] / scored.unit).mean(1)
        right = valid & (before[:, 0] > before[:, 1])
        flipped = int((after[right, 1] > before[right, 0]).sum())
        rows.append(
            {
                "sentences": k,
                **mean_interval(change, seed=seed, level=level).as_dict(),
                "flip_rate": wilson(flipped, int(right.sum()), level=level).as_dict(),
                "excluded": int((~valid).sum()),
            }
        )
    return rows
