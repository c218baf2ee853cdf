"""Random batches and engine outputs in fp64 for property tests of objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.objectives.reduction import Terms, reduce

V = 7

Loss = Callable[[Outputs, Batch], Terms]

masks = st.lists(
    st.lists(st.booleans(), min_size=1, max_size=6).map(lambda tail: (False, *tail)), min_size=1, max_size=6
).filter(lambda rows: any(any(r) for r in rows))
"""Action masks of one to six sequences: one-token answers, gaps and sequences without any action included."""


def random_batch(rows: list[tuple[bool, ...]], seed: int, *, k: int | None = None) -> Batch:
    """A batch with every stream that an objective here reads; `k` teacher tokens a row, or the vocabulary."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ids = [torch.randint(0, V, (len(r),), generator=generator).tolist() for r in rows]
    batch = Batch.pack(
        [Sequence(tuple(i), r) for i, r in zip(ids, rows)], group=[i // 2 for i in range(len(rows))]
    )
    tokens, actions = batch.ids.numel(), int(batch.action.sum())
    teacher = (1.5 * normal(actions, V)).log_softmax(-1)
    streams: dict[str, Tensor] = {"slice_logp": teacher}
    if k is not None:
        top = teacher.topk(k, dim=-1)
        streams = {"slice_logp": top.values, "slice_ids": top.indices}
    weight = (normal(tokens).abs() + 0.1) * (torch.rand(tokens, generator=generator) < 0.8)
    return replace(batch, action_streams=streams, reward=normal(len(rows))).with_streams(
        weight=weight,
        logp_ref=-normal(tokens).abs() * batch.action,
        logp_sample=-normal(tokens).abs() * batch.action,
        logp_teacher=-normal(tokens).abs() * batch.action,
        advantage=normal(tokens) * batch.action,
        teacher_weight=(normal(tokens) > 0).double(),
        dual=normal(len(rows)).abs()[batch.seq],
        row=(batch.action.cumsum(0) - 1).double(),
    )


def outputs(logits: Tensor, batch: Batch) -> Outputs:
    """What an engine would give: `logits` Float[A, V] of the whole step, found again by the stream `row`."""
    at = batch.action.nonzero().squeeze(-1)
    logp = logits.log_softmax(-1)[batch.streams["row"][at].long()]
    zeros = torch.zeros(batch.ids.numel(), dtype=logp.dtype)
    ids = batch.action_streams.get("slice_ids")
    return Outputs(
        logp=zeros.index_put((at,), logp.gather(-1, batch.ids[at, None]).squeeze(-1)),
        logp_mean=zeros.index_put((at,), logp.mean(-1)),
        slice_logp=logp if ids is None else logp.gather(-1, ids),
    )


def random_logits(batch: Batch, seed: int) -> Tensor:
    """Float[A, V] with gradient."""
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (int(batch.action.sum()), V)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def step_gradient(loss: Loss, batch: Batch, logits: Tensor, split: list[list[int]]) -> Tensor:
    """The gradient of one step in the logits, over these micro-batches."""
    total = torch.zeros_like(logits)
    for rows in split:
        micro = batch.select(rows)
        value = reduce(loss(outputs(logits, micro), micro), batch.counts())
        if value.requires_grad:
            (found,) = torch.autograd.grad(value, logits)
            total += found
    return total
