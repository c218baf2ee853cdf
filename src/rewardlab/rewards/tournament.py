"""Relative rewards: the answers of a group compete before a judge, and strength is the reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import model_validator

from rewardlab.core.draws import generator_for
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.judges.base import Judge
from rewardlab.judges.flawed import NoisyJudge, PositionBiasedJudge, content
from rewardlab.judges.orders import BothOrders
from rewardlab.judges.scores import ScoreJudge
from rewardlab.rewards import strengths
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.groups import by_group
from rewardlab.rewards.strengths import Floats

Strength = Literal["win_share", "elo", "bradley_terry"]


class Tournament:
    """Every answer meets the others of its group, or as many pairs of the group as `pairs_per_group` allows.

    The value is the answer's share of wins, its Elo rating, or its Bradley-Terry log-strength; `parts` holds
    all three and the number of `games`. `uncertainty` is the standard error of the win share or log-strength.
    Values compare answers within a group only. Pairs are judged in both orders unless `both_orders` is
    off; then the order is drawn, so that a position bias becomes noise rather than favour.

    A pair without a verdict counts for neither. An answer without a game (a group of one, or no verdict on
    any of its pairs) is an abstention; if all its pairs failed, an error. Equal answers get equal
    expected values. Draws depend on the seed and the texts, not on the batch.
    """

    def __init__(
        self,
        name: str,
        judge: Judge,
        *,
        strength: Strength = "win_share",
        pairs_per_group: int | None = None,
        both_orders: bool = True,
        prior: float = 0.5,
        seed: int = 0,
    ) -> None:
        if pairs_per_group is not None and pairs_per_group < 1:
            raise UserError(f"{name}: {pairs_per_group} pairs per group.", "Leave it out to judge all pairs.")
        self.name, self.pairs_per_group, self.prior, self.seed = name, pairs_per_group, prior, seed
        self.strength: Strength = strength
        self.both_orders = both_orders
        self.judge = BothOrders(judge) if both_orders else judge

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; all groups are judged in one call."""
        groups = by_group(rollouts)
        drawn = [self._pairs([rollouts[i] for i in group]) for group in groups]
        asked = [(rollouts[g[a]], rollouts[g[b]]) for g, ps in zip(groups, drawn, strict=True) for a, b in ps]
        verdicts = iter(self.judge.compare(asked))
        found: list[Score] = [Score.abstain("")] * len(rollouts)
        for group, pairs in zip(groups, drawn, strict=True):
            wins, games = np.zeros((len(group),) * 2), np.zeros((len(group),) * 2)
            failures: list[list[str]] = [[] for _ in group]
            abstained = [False] * len(group)
            for a, b in pairs:
                verdict = next(verdicts)
                if verdict.first is None:
                    for i in (a, b):
                        failures[i].append(verdict.reason)
                        abstained[i] |= verdict.status == "abstain"
                    continue
                wins[a, b], wins[b, a] = verdict.first, 1 - verdict.first
                games[a, b] = games[b, a] = 1
            for i, score in enumerate(self._scores(wins, games, [p for p in pairs if games[p] > 0])):
                if score is None and failures[i] and not abstained[i]:
                    score = Score.error(f"{self.name}: no pair could be judged; {failures[i][0]}")
                reason = failures[i][0] if failures[i] else "no other answer to compare with"
                found[group[i]] = score or Score.abstain(f"{self.name}: no verdict; {reason}")
        return found

    def _pairs(self, group: list[Rollout]) -> list[tuple[int, int]]:
        """The pairs to judge, in the order that Elo reads them, first answer shown first."""
        rng = generator_for(self.seed, *sorted("\n".join(content(r)) for r in group))
        ranked = sorted(range(len(group)), key=lambda i: group[i].text)  # whatever order they came in
        pairs = [(ranked[a], ranked[b]) for a, b in combinations(range(len(group)), 2)]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))[: self.pairs_per_group]]
        if self.both_orders:
            return pairs
        return [(b, a) if swap else (a, b) for (a, b), swap in zip(pairs, rng.random(len(pairs)) < 0.5)]

    def _scores(self, wins: Floats, games: Floats, order: list[tuple[int, int]]) -> list[Score | None]:
        theta = strengths.bradley_terry(wins, games, prior=self.prior)
        parts: dict[str, Floats] = {
            "win_share": strengths.win_share(wins, games),
            "elo": strengths.elo(wins, games, np.array(order, dtype=np.int64).reshape(-1, 2)),
            "bradley_terry": theta,
            "games": games.sum(1),
        }
        errors: dict[str, Floats] = {
            "win_share": strengths.win_share_error(wins, games),
            "bradley_terry": strengths.bradley_terry_error(theta, games, prior=self.prior),
        }
        error = errors.get(self.strength)
        return [
            None
            if math.isnan(parts[self.strength][i])
            else Score(
                float(parts[self.strength][i]),
                parts={k: float(v[i]) for k, v in parts.items()},
                uncertainty=None if error is None else float(error[i]),
            )
            for i in range(len(wins))
        ]


class AnchoredTournament:
    """Every answer meets fixed opponents: the texts in its prompt's meta under `field`; value = mean of wins.

    Linear in the group's size, and comparable over groups and over training, unlike a tournament within the
    group. `uncertainty` is the win share's standard error. A prompt without opponents is an error, an
    answer without a verdict an abstention.
    """

    def __init__(self, name: str, judge: Judge, *, field: str = "anchors", both_orders: bool = True) -> None:
        self.name, self.field = name, field
        self.judge = BothOrders(judge) if both_orders else judge

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; all comparisons in one call."""
        opponents = [self._anchors(r) for r in rollouts]
        asked = [(r, a) for r, anchors in zip(rollouts, opponents, strict=True) for a in anchors]
        verdicts = iter(self.judge.compare(asked))
        found = []
        for rollout, anchors in zip(rollouts, opponents, strict=True):
            mine = [next(verdicts) for _ in anchors]
            won = [c.first for c in mine if c.first is not None]
            if not anchors:
                found.append(Score.error(f"{rollout.prompt.place}: {self.name}: no texts in {self.field!r}"))
            elif not won:
                failed = all(c.status == "error" for c in mine)
                found.append((Score.error if failed else Score.abstain)(f"{self.name}: {mine[0].reason}"))
            else:
                n, w = len(won), math.fsum(won)
                p = (w + 0.5) / (n + 1)
                parts = {"win_share": w / n, "games": float(n)}
                found.append(Score(w / n, parts=parts, uncertainty=math.sqrt(p * (1 - p) / (n + 1))))
        return found

    def _anchors(self, rollout: Rollout) -> list[Rollout]:
        texts = rollout.prompt.meta.get(self.field, ())
        texts = [texts] if isinstance(texts, str) else list(texts)
        return [given_text(rollout, text) for text in texts]


def given_text(rollout: Rollout, text: str) -> Rollout:
    """Another answer to the same prompt, as text that nobody sampled."""
    return Rollout(rollout.prompt, Tokens((0,), (False,)), text, rollout.group)


class TournamentSettings(RewardSettings):
    """Answers of a group, or fixed anchor texts, compared by a judge or by the scores of another reward."""

    kind: Literal["tournament"] = "tournament"
    reward: str | None = None
    """The reward whose scores decide: sigmoid of their difference over `temperature`."""
    judge: str | None = None
    """The judge that decides, in place of `reward`."""
    temperature: float = 1.0
    """0 lets the higher score win outright."""
    strength: Strength = "win_share"
    anchors: str | None = None
    """Meta field of the prompt with the texts to compete with; None: the other answers of the group."""
    pairs_per_group: int | None = None
    """Judge a random sample of this many pairs; None judges all."""
    both_orders: bool = True
    position_shift: float = 0.0
    """Logits that the judge adds to the answer shown first: a known flaw, for experiments."""
    flip_rate: float = 0.0
    """Share of pairs on which the judge is turned round: a known flaw, for experiments."""
    seed: int = 0

    def references(self) -> list[str]:
        """The reward that decides."""
        return [] if self.reward is None else [self.reward]

    def judges(self) -> list[str]:
        """The judge that decides."""
        return [] if self.judge is None else [self.judge]

    @model_validator(mode="after")
    def _one_decides(self) -> TournamentSettings:
        if (self.reward is None) == (self.judge is None):
            raise ValueError("a tournament needs either `reward` or `judge`, to decide who wins")
        return self

    def build(self, name: str, resolver: Resolver) -> Tournament | AnchoredTournament:
        """The tournament."""
        judge: Judge
        if self.judge is not None:
            judge = resolver.judge(self.judge)
        else:
            judge = ScoreJudge(resolver.reward(self.reward or ""), temperature=self.temperature)
        if self.flip_rate:
            judge = NoisyJudge(judge, rate=self.flip_rate, seed=self.seed)
        if self.position_shift:
            judge = PositionBiasedJudge(judge, shift=self.position_shift)
        if self.anchors is not None:
            return AnchoredTournament(name, judge, field=self.anchors, both_orders=self.both_orders)
        return Tournament(
            name,
            judge,
            strength=self.strength,
            pairs_per_group=self.pairs_per_group,
            both_orders=self.both_orders,
            seed=self.seed,
        )
