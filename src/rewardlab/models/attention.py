"""Attention over a flat token stream: tokens attend within their own segment and to a shared prefix.

Every network of `transformers` that takes its attention from the library's interface can be given a plan
with the call; without one it behaves as its `sdpa` implementation. Nothing is padded, and a prefix that
several segments share is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "rewardlab"
"""The attention implementation's name in `transformers`."""


class Plan(Protocol):
    """Who attends to whom in one forward pass."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """[B, heads, L, D] from queries of this shape; keys and values may have fewer heads. `layer` counts
        the layers; `window`: a token sees this many tokens at most, itself included."""
        ...


@dataclass(frozen=True)
class Causal:
    """Rows padded on the right, each causal in itself: no real token ever sees the padding behind it."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        gqa = q.shape[1] != k.shape[1]
        if window is None or window >= q.shape[2]:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        i = torch.arange(q.shape[2], device=q.device)
        distance = i[:, None] - i[None, :]
        mask = (distance >= 0) & (distance < window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)


@dataclass(frozen=True)
class Tree:
    """A prefix and the branches that continue it; the branches lie one behind another in the stream."""

    start: int
    """Where the prefix begins in the stream."""
    prefix: int
    """Tokens that all branches share; may be 0."""
    first: int
    """Where the first branch begins."""
    branches: tuple[int, ...]
    """Tokens of each branch."""

    def segments(self) -> list[tuple[int, int]]:
        """(start, length) of the prefix, if there is one, and of each branch."""
        found = [(self.start, self.prefix)] if self.prefix else []
        at = self.first
        for length in self.branches:
            found.append((at, length))
            at += length
        return found


class Forest:
    """The plan of a stream [1, T] of trees.

    On the CPU each segment attends to itself with the flash kernel, and all branches of a tree attend to its
    prefix in one more call. The two partial results are joined
    through their log-normalisers, as in ring attention (Liu et al. 2023, arXiv 2310.01889), which is exact.
    Elsewhere, or with a window, each tree is one call with a mask.
    """

    def __init__(self, trees: Sequence[Tree], position: Tensor) -> None:
        self.trees = trees
        self.position = position

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        if window is not None and window > int(self.position.max()):
            window = None
        if q.device.type == "cpu" and window is None:
            # The CPU's flash kernel is slower in bf16 than in fp32, and less exact.
            rows = [x[0].transpose(0, 1).to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v)]
            joined: Tensor = _Joined.apply(*rows, self, scale)  # type: ignore[no-untyped-call]
            return joined.transpose(0, 1)[None].to(q.dtype)
        out = torch.empty_like(q)
        for tree in self.trees:
            at, mask = self._mask(tree, window)
            out[:, :, at] = F.scaled_dot_product_attention(
                q[:, :, at],
                k[:, :, at],
                v[:, :, at],
                attn_mask=mask,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        return out

    def read(
        self, rows: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """[A, heads, D]: attention of the places `rows` Long[A] alone, from their queries [A, heads, D] and
        all keys and values [1, heads, T, D]. Cheaper than `attend` where few places are read."""
        prefix, shared, own = self._sources[:, rows]
        size = shared + rows - own + 1
        column = torch.arange(int(size.max()), device=rows.device)[None]
        places = column + torch.where(column < shared[:, None], prefix[:, None], (own - shared)[:, None])
        seen = column < size[:, None]
        places = places.where(seen, rows[:, None])
        if window is not None:
            seen &= self.position[rows][:, None] - self.position[places] < window
        keys, values = (
            x[0].transpose(0, 1).index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)
            for x in (k, v)
        )
        gqa = q.shape[1] != k.shape[1]
        with torch.autocast(q.device.type, enabled=False):  # which would compute it in bf16
            found = F.scaled_dot_product_attention(
                q[:, :, None], keys, values, seen[:, None, None], scale=scale, enable_gqa=gqa
            )
        return found.squeeze(2)

    @cached_property
    def _sources(self) -> Tensor:
        """Long[3, T]: start and length of the prefix of a token's branch, and start of its segment."""
        found = torch.zeros(3, self.position.numel(), dtype=torch.long)
        for tree in self.trees:
            for start, length in tree.segments():
                prefix = tree.prefix if start != tree.start else 0
                found[:, start : start + length] = torch.tensor([tree.start, prefix, start])[:, None]
        return found.to(self.position.device)

    def _mask(self, tree: Tree, window: int | None) -> tuple[Tensor, Tensor]:
        """Stream positions of a tree's tokens and Bool[n, n], who sees whom."""
        segments = tree.segments()
        at = torch.cat([torch.arange(start, start + length) for start, length in segments])
        segment = torch.arange(len(segments)).repeat_interleave(torch.tensor([n for _, n in segments]))
        order = torch.arange(at.numel())
        mask = (segment[:, None] == segment[None, :]) | (order < tree.prefix)[None, :]
        mask &= order[:, None] >= order[None, :]
        if window is not None:
            position = self.position.cpu()[at]
            mask &= position[:, None] - position[None, :] < window
        device = self.position.device
        return at.to(device), mask.to(device)

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """(start, n, length): n segments of one length that lie end to end, which attend in one call.

        Segments of unlike length would have to be copied together and padded: that costs more than a call
        for each.
        """
        found: list[tuple[int, int, int]] = []
        for start, length in sorted(s for tree in self.trees for s in tree.segments() if s[1]):
            if found and found[-1][2] == length and found[-1][0] + found[-1][1] * length == start:
                found[-1] = (found[-1][0], found[-1][1] + 1, length)
            else:
                found.append((start, 1, length))
        return found

    @cached_property
    def crossings(self) -> list[tuple[slice, slice]]:
        """(branches, prefix) of each tree that has both."""
        found = []
        for tree in self.trees:
            end = tree.first + sum(tree.branches)
            if tree.prefix and end > tree.first:
                found.append((slice(tree.first, end), slice(tree.start, tree.start + tree.prefix)))
        return found


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _Joined(torch.autograd.Function):
    """Attention of a forest: [T, heads, D] from queries, keys, values of that shape.

    With all keys' log-normaliser and output at hand, the backward of attention to any part of the keys is
    right by itself, so the parts need not be joined again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, forest: Forest, scale: float | None) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        norm = torch.empty(q.shape[:2], dtype=q.dtype)
        for run in forest.runs:
            o, n = _flash(*(_rows(x, run) for x in (q, k, v)), is_causal=True, scale=scale)
            _rows(out, run).copy_(o)
            _rows(norm, run).copy_(n)
        for branches, prefix in forest.crossings:
            o, n = _flash(_row(q, branches), _row(k, prefix), _row(v, prefix), scale=scale)
            o, n = o[0].transpose(0, 1), n[0].transpose(0, 1)
            own = norm[branches]
            both = torch.logaddexp(own, n)
            out[branches].mul_((own - both).exp()[..., None]).add_(o * (n - both).exp()[..., None])
            norm[branches] = both
        ctx.save_for_backward(q, k, v, out, norm)
        ctx.forest, ctx.scale = forest, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, norm = ctx.saved_tensors
        g = grads[0].contiguous()
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))  # every token is in a run
        for run in ctx.forest.runs:
            rows = (_rows(x, run) for x in (g, q, k, v, out, norm))
            found = _flash_backward(*rows, 0.0, True, scale=ctx.scale)
            for total, x in zip((dq, dk, dv), found, strict=True):
                _rows(total, run).copy_(x)
        for branches, prefix in ctx.forest.crossings:
            found = _flash_backward(
                _row(g, branches),
                _row(q, branches),
                _row(k, prefix),
                _row(v, prefix),
                _row(out, branches),
                _row(norm, branches),
                0.0,
                False,
                scale=ctx.scale,
            )
            for total, x, at in zip((dq, dk, dv), found, (branches, prefix, prefix), strict=True):
                total[at] += x[0].transpose(0, 1)
        return dq, dk, dv, None, None


def _rows(x: Tensor, run: tuple[int, int, int]) -> Tensor:
    """[n, heads, L, ...], segments of a stream [T, heads, ...], in place."""
    start, n, length = run
    return x[start : start + n * length].view(n, length, *x.shape[1:]).transpose(1, 2)


def _row(x: Tensor, at: slice) -> Tensor:
    """[1, heads, L, ...], a stretch of a stream [T, heads, ...] as the kernel takes it."""
    return x[at].transpose(0, 1)[None]


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """What `transformers` calls; a plan comes with the keyword `plan`."""
    plan: Plan | None = kwargs.pop("plan", None)
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    if kwargs.get("dropout"):
        raise ValueError("attention dropout is not part of a plan; set the model's attention_dropout to 0")
    out = plan.attend(
        int(module.layer_idx), query, key, value, kwargs.get("scaling"), kwargs.get("sliding_window")
    )
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
