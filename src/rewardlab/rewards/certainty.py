"""How sure a model is of an answer, as a reward without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from rewardlab.core.batch import Batch, given, sum_by_sequence
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.reading import Reader, score_readable

Measure = Literal["self_certainty", "negative_entropy"]


class Certainty:
    """Mean over the answer's tokens of how far the model's next-token distribution p_t is from undecided.

    self_certainty: KL(uniform || p_t) = -log V - (1/V) sum_v log p_t(v), nats, V the vocabulary (Zhao et al.
    2025, "Learning to Reason without External Rewards", arXiv 2505.19590). negative_entropy:
    sum_v p_t(v) log p_t(v); paying it is entropy minimisation.

    Neither knows whether an answer is right: both sharpen what the model already believes, wrong majorities
    included, and end in collapse if paid for long. `warning` says so. An answer without a token is an
    abstention.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        measure: Measure = "self_certainty",
        *,
        max_tokens: int | None = None,
        reads_ids: bool = False,
    ) -> None:
        self.name, self.engine = name, engine
        self.measure: Measure = measure
        self.read = Reader(engine.model.tokenizer, max_tokens, reads_ids)
        self.warning = (
            f"{name} pays the model for being sure, right or wrong; watch accuracy and diversity beside it."
        )

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        return score_readable(rollouts, self.read, self._scores)

    def _scores(self, rows: list[Tokens]) -> list[Score]:
        batch = Batch.pack(rows)
        values = self.engine.frozen_tokens(batch, self._of_tokens)
        actions = sum_by_sequence(batch.action.float(), batch)
        means = (sum_by_sequence(values, batch) / actions.clamp(min=1)).tolist()
        return [self._score(row, mean) for row, mean in zip(rows, means, strict=True)]

    def _of_tokens(self, micro: Batch) -> Tensor:
        if self.measure == "negative_entropy":
            return -given(self.engine.logprobs(micro, entropy=True).entropy)
        vocabulary = self.engine.model.hf.get_output_embeddings().weight.shape[0]
        mean = given(self.engine.logprobs(micro, mean=True).logp_mean)
        return (-math.log(vocabulary) - mean) * micro.action.to(mean)

    def _score(self, row: Tokens, mean: float) -> Score:
        if not row.actions:
            return Score.abstain(f"{self.name}: the answer has no token")
        if not math.isfinite(mean):
            return Score.error(f"{self.name}: the model gave a value that is not finite")
        return Score(mean, parts={self.name: mean})


class CertaintySettings(RewardSettings):
    """The model's own certainty, without labels; rewards wrong beliefs as much as right ones."""

    kind: Measure = "self_certainty"
    """`self_certainty`, or `negative_entropy` for entropy minimisation."""
    model: str = "base"
    """Whose certainty; it stays as it is while the policy learns."""
    max_tokens: int | None = None
    reads_ids: bool = False
    """Read sampled ids as they are; only where the sampled policy has this model's tokenizer and template."""

    def build(self, name: str, resolver: Resolver) -> Certainty:
        """The reward."""
        options = self.model_dump(include={"max_tokens", "reads_ids"})
        return Certainty(name, resolver.policy(self.model), self.kind, **options)
