"""Matrix entropy: how many directions the hidden states of an answer use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.reading import Reader, score_readable


def matrix_entropy(
    states: Tensor, *, alpha: float = 1.0, centre: bool = True, normalise: bool = True, eps: float = 1e-6
) -> float:
    """Renyi entropy of order alpha of the spectrum of N states Float[N, D], by default over its maximum.

    p_k = lambda_k / sum lambda, lambda the eigenvalues of Z Z^T above eps * the largest
    S_alpha = log(sum_k p_k^alpha) / (1 - alpha); alpha = 1: -sum_k p_k log p_k (von Neumann), nats

    In [0, log R], R = min(N - 1, D) the rank that centred states can have; normalised, in [0, 1]. Raw
    values grow with the number of tokens, so paid out raw they are a reward for length; without centring,
    a mean shared by all states hides the rest. States that are all equal give 0. Measured so in "Layer by
    Layer" (Skean et al. 2025, arXiv 2502.02013).
    """
    z = states.double()
    if centre:
        z = z - z.mean(0)
    spectrum = torch.linalg.svdvals(z) ** 2 if len(z) else z.new_zeros(1)
    if len(z) < 2 or float(spectrum.max()) <= 1e-12:
        return 0.0
    p = spectrum[spectrum > eps * spectrum.max()]
    p = p / p.sum()
    entropy = float(-(p * p.log()).sum() if alpha == 1 else (p**alpha).sum().log() / (1 - alpha))
    if not normalise:
        return entropy
    rank = min(len(z) - int(centre), z.shape[1])  # centring takes one dimension away
    return entropy / math.log(rank) if rank > 1 else 0.0


class MatrixEntropy:
    """Matrix entropy of the answer's hidden states, mean over `layers` (None: the middle half of them).

    With `only_if` it is paid where that reward's value is positive, and 0 elsewhere; where that reward has
    no value, neither has this one. Alone it rewards rambling: entropy rises and answers do not get better.
    An answer of fewer than 3 tokens is an abstention.
    """

    warning: ClassVar[str] = "matrix entropy does not look at the answer; alone it rewards rambling."

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        layers: Sequence[int] | None = None,
        alpha: float = 1.0,
        centre: bool = True,
        normalise: bool = True,
        only_if: Reward | None = None,
        max_tokens: int | None = None,
        reads_ids: bool = False,
    ) -> None:
        if not alpha > 0:
            raise UserError(f"{name}: alpha is {alpha}.", "Use a positive order; 1 is the Shannon entropy.")
        depth = int(engine.model.hf.config.get_text_config().num_hidden_layers)
        self.layers = list(range(depth // 4 + 1, depth - depth // 4 + 1)) if layers is None else list(layers)
        if not self.layers or not all(0 <= i <= depth for i in self.layers):
            raise UserError(
                f"{name}: layers {self.layers} of a model with {depth}.", "0 is the embedding, then 1 and up."
            )
        self.name, self.engine, self.only_if = name, engine, only_if
        self.alpha, self.centre, self.normalise = alpha, centre, normalise
        self.read = Reader(engine.model.tokenizer, max_tokens, reads_ids)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        found = score_readable(rollouts, self.read, self._scores)
        if self.only_if is None:
            return found
        return [self._gated(s, g) for s, g in zip(found, self.only_if.score(rollouts), strict=True)]

    def _gated(self, score: Score, gate: Score) -> Score:
        if score.value is None:
            return score
        if gate.value is None:
            return gate
        value = score.value if gate.value > 0 else 0.0
        return Score(value, parts={self.name: value, "matrix_entropy": score.value, "gate": gate.value})

    def _scores(self, rows: list[Tokens]) -> list[Score]:
        batch = Batch.pack(rows)
        found: list[Score] = [Score.abstain("")] * len(rows)
        with self.engine.frozen():
            for chosen in self.engine.split(batch):
                micro = batch.select(chosen).to(self.engine.model.device)
                states = self.engine.layer_states(micro, self.layers)
                for i, at in enumerate(chosen):
                    span = slice(int(micro.offsets[i]), int(micro.offsets[i + 1]))
                    mine = [z[span][micro.action[span]].float().cpu() for z in states]
                    found[at] = self._score(mine)
        return found

    def _score(self, layers: list[Tensor]) -> Score:
        if len(layers[0]) < 3:
            return Score.abstain(f"{self.name}: {len(layers[0])} tokens have no spectrum to speak of")
        if not all(bool(z.isfinite().all()) for z in layers):
            return Score.error(f"{self.name}: a hidden state is not finite")
        each = [
            matrix_entropy(z, alpha=self.alpha, centre=self.centre, normalise=self.normalise) for z in layers
        ]
        value = math.fsum(each) / len(each)
        return Score(value, parts={self.name: value})


class MatrixEntropySettings(RewardSettings):
    """Matrix entropy of a model's hidden states over the answer."""

    kind: Literal["matrix_entropy"] = "matrix_entropy"
    model: str = "base"
    """Whose hidden states; it stays as it is while the policy learns."""
    only_if: str | None = None
    """Pay only where this reward is positive, such as one that checks the answer."""
    layers: list[int] | None = None
    """None: the middle half. 0 is the embedding."""
    alpha: float = 1.0
    """Order of the Renyi entropy."""
    centre: bool = True
    normalise: bool = True
    """Divide by the log of the rank that the answer's length allows; off, longer answers get more."""
    max_tokens: int | None = None
    reads_ids: bool = False
    """Read sampled ids as they are; only where the sampled policy has this model's tokenizer and template."""

    def references(self) -> list[str]:
        """The condition."""
        return [] if self.only_if is None else [self.only_if]

    def build(self, name: str, resolver: Resolver) -> MatrixEntropy:
        """The reward."""
        only_if = None if self.only_if is None else resolver.reward(self.only_if)
        options = self.model_dump(exclude={"kind", "model", "only_if"})
        return MatrixEntropy(name, resolver.policy(self.model), only_if=only_if, **options)
