"""Log-probs and entropies from hidden states, at the action positions only.

The vocabulary projection is one matrix product; everything after it walks over a few rows at a time that fit
in the cache, in fp32, and its gradient is written over the logits themselves. So one [tokens, V] matrix is
held, in the network's precision, and none where it would be large: then it is made in chunks, and again
in backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from torch.utils.checkpoint import checkpoint

LOGITS_KEPT = 1 << 24
"""At most this many logits are kept from forward to backward: 64 MiB in fp32."""
LOGITS_PER_CHUNK = 1 << 22
"""Chunk size where they are not kept."""
BLOCK = 1 << 18
"""Logits looked at together: 1 MiB, so that a block stays in a CPU core's cache."""


def logits_of(hf: Any, hidden: Tensor) -> Tensor:
    """[..., V] of hidden states [..., H]."""
    return projection(hf)(hidden)


def projection(hf: Any) -> Callable[[Tensor], Tensor]:
    """hidden states -> logits, with the final multipliers and soft-cap that some families have.

    Gemma: cap * tanh(logits / cap). Cohere: logits * logit_scale. Granite: logits / logits_scaling. A head
    whose weight is sharded over ranks is gathered here, once; its gradient is the sum over ranks.
    """
    head, config = hf.get_output_embeddings(), hf.config
    apply: Callable[[Tensor], Tensor] = head
    if isinstance(getattr(head, "weight", None), DTensor):
        weight, bias = _whole(head.weight), None if head.bias is None else _whole(head.bias)
        apply = partial(F.linear, weight=weight, bias=bias)

    def logits(hidden: Tensor) -> Tensor:
        found = apply(hidden)
        if (scale := getattr(config, "logit_scale", None)) is not None:
            found = found.float() * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            found = found.float() / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            found = cap * torch.tanh(found.float() / cap)
        return found

    return logits


def _whole(x: DTensor) -> Tensor:
    """What the ranks hold together; each rank's gradient is of its own rows, so they add up."""
    return x.full_tensor(grad_placements=[Partial()] * x.device_mesh.ndim)


class HeadOutputs(NamedTuple):
    """What the head makes of A positions; None where it was not asked for."""

    logp: Tensor
    """Float[A]: log p(target)."""
    entropy: Tensor | None
    """Float[A]: -sum p log p, nats."""
    mean: Tensor | None
    """Float[A]: (1 / V) sum_v log p(v)."""
    slice: Tensor | None
    """Float[A, K]: log p of the tokens asked for."""


def token_logprobs(
    hf: Any,
    hidden: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    *,
    entropy: bool = False,
    mean: bool = False,
    slice_ids: Tensor | Literal["all"] | None = None,
) -> HeadOutputs:
    """log p(target | hidden) and what else is asked of p = softmax(logits / temperature), all differentiable.

    hidden [A, H], targets [A], temperature [A] or None, slice_ids [A, K] or "all". Only `slice_ids="all"`
    keeps a [A, V] matrix: it is then the result.
    """
    positions, vocabulary = hidden.shape[0], int(hf.config.get_text_config().vocab_size)
    kept = not torch.is_grad_enabled() or positions * vocabulary <= LOGITS_KEPT
    rows = max(1, (LOGITS_KEPT if kept else LOGITS_PER_CHUNK) // vocabulary)
    spans = [slice(i, i + rows) for i in range(0, positions, rows)] or [slice(0, 0)]

    project = projection(hf)

    def chunk(h: Tensor, y: Tensor, t: Tensor | None, k: Tensor | None) -> tuple[Tensor, ...]:
        logits = project(h)
        if slice_ids is None:
            found: tuple[Tensor, ...] = _Statistics.apply(logits, y, t, entropy, mean)  # type: ignore[no-untyped-call]
            return found[: 1 + entropy + mean]
        logits = logits.float() if t is None else logits.float() / t[:, None]
        logp = logits - logits.logsumexp(-1, keepdim=True)
        columns = [logp.gather(-1, y[:, None]).squeeze(-1)]
        if entropy:
            columns.append(-(logp.exp() * logp).sum(-1))
        if mean:
            columns.append(logp.mean(-1))
        return (*columns, logp if k is None else logp.gather(-1, k))

    results = []
    for span in spans:
        t = None if temperature is None else temperature[span]
        k = slice_ids[span] if isinstance(slice_ids, Tensor) else None
        if kept:
            results.append(chunk(hidden[span], targets[span], t, k))
        else:
            results.append(checkpoint(chunk, hidden[span], targets[span], t, k, use_reentrant=False))
    columns = iter([torch.cat(column) for column in zip(*results, strict=True)])
    return HeadOutputs(
        logp=next(columns),
        entropy=next(columns) if entropy else None,
        mean=next(columns) if mean else None,
        slice=next(columns) if slice_ids is not None else None,
    )


class _Statistics(torch.autograd.Function):
    """log p(target), entropy and mean log-prob of each row of logits [A, V]; fp32 [A] each.

    d logp / dz = onehot - p;  d entropy / dz = -p (log p + entropy);  d mean / dz = 1 / V - p.
    Backward overwrites the logits with their gradient: nothing else reads them, and it runs once.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, y: Tensor, temperature: Tensor | None, entropy: bool, mean: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        logp, ent, avg, norm = torch.empty(
            4, logits.shape[0], device=logits.device, dtype=torch.promote_types(logits.dtype, torch.float32)
        )
        for rows in _blocks(logits):
            z = logits[rows].to(logp.dtype)
            if temperature is not None:
                z = z / temperature[rows, None]
            top = z.amax(-1, keepdim=True)
            z = z - top
            logp[rows] = z.gather(-1, y[rows, None]).squeeze(-1)
            if mean:
                avg[rows] = z.mean(-1)
            p = z.exp()
            total = p.sum(-1)
            if entropy:
                ent[rows] = (p * z).sum(-1) / total
            norm[rows] = total.log()
            top = top.squeeze(-1)
            for x, wanted in ((logp, True), (avg, mean), (ent, entropy)):
                if wanted:
                    x[rows] -= norm[rows]
            norm[rows] += top
        ent.neg_()
        ctx.save_for_backward(logits, y, temperature, norm, ent)
        ctx.entropy, ctx.mean = entropy, mean
        if entropy:
            return logp, ent, avg
        return logp, avg, ent  # the caller takes as many as it asked for

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, y, temperature, norm, ent = ctx.saved_tensors
        g_logp = grads[0]
        g_ent = grads[1] if ctx.entropy else None
        g_mean = grads[1 + ctx.entropy] if ctx.mean else None
        for rows in _blocks(logits):
            z = logits[rows].to(norm.dtype)
            if temperature is not None:
                z = z / temperature[rows, None]
            z = z - norm[rows, None]
            factor = g_logp[rows] if g_mean is None else g_logp[rows] + g_mean[rows]
            if g_ent is None:
                dz = z.exp_().mul_(-factor[:, None])
            else:
                p = z.exp()
                bonus = g_ent[rows, None]
                dz = z.mul_(-bonus).sub_(factor[:, None] + bonus * ent[rows, None]).mul_(p)
            if g_mean is not None:
                dz += (g_mean[rows] / logits.shape[-1])[:, None]
            dz.scatter_add_(-1, y[rows, None], g_logp[rows, None])
            if temperature is not None:
                dz /= temperature[rows, None]
            logits[rows] = dz.to(logits.dtype)
        return logits, None, None, None, None


def _blocks(logits: Tensor) -> list[slice]:
    """Rows in blocks of about a MiB on the CPU; on an accelerator in a few large ones."""
    size = BLOCK if logits.device.type == "cpu" else LOGITS_PER_CHUNK
    step = max(1, size // logits.shape[-1])
    return [slice(i, i + step) for i in range(0, logits.shape[0], step)]
