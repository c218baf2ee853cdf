"""The flat token stream that every training step sees, from SFT to GRPO.

All sequences stand end to end; no padding is visible here. The engine (`models/`) turns a batch into
log-probs of the same flat shape and hides how. Shapes: T tokens, N sequences, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.types import Sequence

Unit = Literal["token", "sequence", "pair"]
Divisor = Unit | tuple[Unit, str]
"""A count of the whole step, or (unit, weight stream): of what is trained under that stream."""


@dataclass(frozen=True)
class Batch:
    """A step's data, or a micro-batch of it."""

    ids: Tensor
    """Long[T]: all sequences end to end."""
    offsets: Tensor
    """Long[N+1]: sequence i is `ids[offsets[i]:offsets[i+1]]`."""
    action: Tensor
    """Bool[T]: the policy chose this token. Never true at a sequence's first token."""
    streams: dict[str, Tensor] = field(default_factory=dict)
    """Float[T] each: logp_sample, logp_ref, advantage, weight, temperature, ... as needed.

    `advantage` is a direction, `weight` says what is trained: weight 0 means "in the group's
    statistics only". A missing weight stream means 1 at every action. Where several losses share a batch,
    `weight_<part>` says what the part trains, and `weight` is not 0 wherever one of them is not."""
    action_streams: dict[str, Tensor] = field(default_factory=dict)
    """[A, ...] each: one row per action token, in token order. For what is too wide to hold at every token:
    `slice_ids` Long[A, K] and `slice_logp` Float[A, K], another model's log-probs over part of the
    vocabulary (or over all of it: Float[A, V] and no ids)."""
    group: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Long[N]: prompt instance. Groups may have unequal sizes. Empty where it has no meaning."""
    reward: Tensor | None = None
    """Float[N]."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Float[N] each: named raw rewards."""
    pairs: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.long))
    """Long[P, 2]: chosen and rejected sequence of each pair."""
    pair_streams: dict[str, Tensor] = field(default_factory=dict)
    """Float[P] each: label (probability that chosen is better), weight, margin."""
    version: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Long[N]: policy version at sampling time. Empty where nothing was sampled."""

    @property
    def size(self) -> int:
        """N, the number of sequences."""
        return int(self.offsets.numel()) - 1

    @property
    def lengths(self) -> Tensor:
        """Long[N]."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def seq(self) -> Tensor:
        """Long[T]: which sequence a token belongs to."""
        numbers = torch.arange(self.size, device=self.ids.device)
        return numbers.repeat_interleave(self.lengths)

    @property
    def trained(self) -> Tensor:
        """Bool[T]: actions whose weight is not zero."""
        weight = self.streams.get("weight")
        return self.action if weight is None else self.action & (weight != 0)

    @property
    def weight(self) -> Tensor:
        """Float[T]: the weight stream with its default filled in; zero outside actions."""
        weight = self.streams.get("weight")
        one = self.action.float()
        return one if weight is None else one * weight

    @staticmethod
    def pack(sequences: Iterable[Sequence], *, group: Iterable[int] = ()) -> Batch:
        """Lay sequences end to end. Log-probs and temperatures become streams where they are given."""
        rows = list(sequences)
        if not rows:
            raise ValueError("a batch needs at least one sequence")
        if any(len(r) == 0 for r in rows):
            raise ValueError("a batch cannot hold an empty sequence")
        lengths = torch.tensor([0] + [len(r) for r in rows])
        streams: dict[str, Tensor] = {}
        if all(r.logp is not None for r in rows):
            streams["logp_sample"] = torch.tensor([x for r in rows for x in r.logp or ()])
        if any(r.temperature != 1.0 for r in rows):
            streams["temperature"] = torch.tensor([r.temperature for r in rows for _ in r.ids])
        return Batch(
            ids=torch.tensor([i for r in rows for i in r.ids], dtype=torch.long),
            offsets=lengths.cumsum(0),
            action=torch.tensor([a for r in rows for a in r.action], dtype=torch.bool),
            streams=streams,
            group=torch.tensor(list(group), dtype=torch.long),
            version=torch.tensor([r.version for r in rows]),
        )

    def with_streams(self, **streams: Tensor) -> Batch:
        """A copy with these token streams added or replaced."""
        return replace(self, streams={**self.streams, **streams})

    def tokens_of(self, sequences: list[int]) -> Tensor:
        """Long[...]: the flat positions of these sequences' tokens, in this order."""
        offsets = self.offsets.tolist()
        return torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in sequences])

    def select(self, sequences: list[int]) -> Batch:
        """The batch of these whole sequences, in this order.

        Pairs are kept if both members are selected and dropped if neither is; cutting a pair in two
        is an error, since its loss would be lost.
        """
        chosen = torch.tensor(sequences, dtype=torch.long)
        tokens = self.tokens_of(sequences)
        rows = (self.action.cumsum(0) - 1)[tokens][self.action[tokens]]
        new_of_old = torch.full((self.size,), -1, dtype=torch.long)
        new_of_old[chosen] = torch.arange(len(sequences))
        pairs = new_of_old[self.pairs]
        present = (pairs >= 0).all(1) if pairs.numel() else torch.zeros(0, dtype=torch.bool)
        if pairs.numel() and ((pairs >= 0).any(1) & ~present).any():
            raise ValueError("a micro-batch must hold both members of a pair")
        return Batch(
            ids=self.ids[tokens],
            offsets=torch.cat([torch.zeros(1, dtype=torch.long), self.lengths[chosen].cumsum(0)]),
            action=self.action[tokens],
            streams={k: v[tokens] for k, v in self.streams.items()},
            action_streams={k: v[rows] for k, v in self.action_streams.items()},
            group=self.group[chosen] if self.group.numel() else self.group,
            reward=None if self.reward is None else self.reward[chosen],
            parts={k: v[chosen] for k, v in self.parts.items()},
            pairs=pairs[present],
            pair_streams={k: v[present] for k, v in self.pair_streams.items()},
            version=self.version[chosen] if self.version.numel() else self.version,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on this device."""

        def move(x: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.to(device) for k, v in x.items()}

        return Batch(
            ids=self.ids.to(device),
            offsets=self.offsets.to(device),
            action=self.action.to(device),
            streams=move(self.streams),
            action_streams=move(self.action_streams),
            group=self.group.to(device),
            reward=None if self.reward is None else self.reward.to(device),
            parts=move(self.parts),
            pairs=self.pairs.to(device),
            pair_streams=move(self.pair_streams),
            version=self.version.to(device),
        )

    def counts(self) -> dict[Divisor, int]:
        """How many trained tokens, trained sequences and pairs the whole step holds.

        Also the tokens and sequences that each stream `weight_<part>` trains, under ("token", stream) and
        ("sequence", stream). These are the only divisors of a loss, so splitting a batch differently changes
        nothing.
        """
        tokens, sequences = self._counted(self.trained)
        found: dict[Divisor, int] = {"token": tokens, "sequence": sequences, "pair": int(self.pairs.shape[0])}
        for name, weight in self.streams.items():
            if name.startswith("weight_"):
                part = self._counted(self.action & (weight != 0))
                found["token", name], found["sequence", name] = part
        return found

    def _counted(self, trained: Tensor) -> tuple[int, int]:
        """Tokens of Bool[T] `trained`, and sequences that have one."""
        return int(trained.sum()), int(self.seq[trained].unique().numel())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Outputs:
    """What the engine makes of a batch. Flat, like the batch."""

    logp: Tensor | None = None
    """Float[T]: log-prob of each action given its prefix; 0 elsewhere."""
    entropy: Tensor | None = None
    """Float[T]: entropy in nats of the distribution each action was drawn from; 0 elsewhere."""
    logp_mean: Tensor | None = None
    """Float[T]: mean over the vocabulary of the log-probs at each action; 0 elsewhere."""
    slice_logp: Tensor | None = None
    """Float[A, K]: log-probs at each action of the tokens in the batch's `slice_ids`, or Float[A, V] of the
    whole vocabulary where the batch has none."""
    scores: Tensor | None = None
    """Float[N]: a reward head's value at each sequence's last real token."""
    token_scores: Tensor | None = None
    """Float[T]: a reward head's value at every token."""
    values: Tensor | None = None
    """Float[T]: a critic's value of the state in which each action was chosen; 0 elsewhere."""


def sum_by_sequence(x: Tensor, batch: Batch) -> Tensor:
    """Float[N]: the sum of a Float[T] stream over each sequence's tokens."""
    return torch.zeros(batch.size, dtype=x.dtype, device=x.device).index_add(0, batch.seq, x)


def given(x: Tensor | None) -> Tensor:
    """The tensor, where leaving it out would be a bug in the caller."""
    if x is None:
        raise ValueError("an output was read that the engine was not asked for")
    return x
