"""What a transformer does between its matrix products, with backward passes of a few large steps each.

Autograd of the written-out formulas goes over the data several times as often: on a CPU a norm costs six
times as much that way. Without gradient the formulas are called as they are, since a function of autograd's
costs as much as the norm of 64 rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """y = weight x / sqrt(mean(x^2) + epsilon) over the last axis, computed in fp32, given in `dtype`.

    Zhang and Sennrich 2019, arXiv 1910.07467. Gradients flow to x and weight.
    """
    if not torch.is_grad_enabled():
        return _normed(x, weight, epsilon, dtype)[0]
    y: Tensor = _RMSNorm.apply(x, weight, epsilon, dtype)  # type: ignore[no-untyped-call]
    return y


def heads_of(
    y: Tensor, sizes: tuple[int, int, int], cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys with rotary positions, and values, in fp32, of y [..., sum(sizes), D].

    With x = (a, b) in halves of D: (a cos - b sin, b cos + a sin). Su et al. 2021, arXiv 2104.09864. cos and
    sin have the shape of queries and keys together, and get no gradient.
    """
    if not torch.is_grad_enabled():
        return _turned(y, sizes, cos, sin)
    q, k, v = _Heads.apply(y, sizes, cos, sin)  # type: ignore[no-untyped-call]
    return q, k, v


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) up for the two halves of the last axis. Shazeer 2020, arXiv 2002.05202."""
    if not torch.is_grad_enabled():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    y: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


def _normed(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The norm, and 1 / sqrt(mean(x^2) + epsilon)."""
    x32, w32 = x.float(), weight.float()
    scale = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
    scale = scale.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x32 * scale).mul_(w32).to(dtype), scale


def _turned(
    y: Tensor, sizes: tuple[int, int, int], cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    half = y.shape[-1] // 2
    turning, v = (t.float() for t in y.split([sizes[0] + sizes[1], sizes[2]], -2))
    turned = turning * cos
    turned[..., :half].addcmul_(turning[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(turning[..., :half], sin[..., half:])
    q, k = turned.split(sizes[:2], -2)
    return q, k, v


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        y, scale = _normed(x, weight, epsilon, dtype)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        size = x.shape[-1]
        g, x32, w32 = (t.float() for t in (grads[0].reshape(-1, size), x.reshape(-1, size), weight))
        # A layer norm's backward with mean 0 is this one less the part that keeps its own mean at 0.
        rows = scale.reshape(-1, 1)
        dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(),
            x32.contiguous(),
            [size],
            torch.zeros_like(rows),
            rows,
            w32,
            w32,
            [True, True, False],
        )
        dx.add_(torch.mv(g, w32).div_(size)[:, None] * rows)
        return dx.view_as(x).to(x.dtype), dw.to(weight.dtype), None, None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, sizes: tuple[int, int, int], cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.sizes, ctx.dtype = sizes, y.dtype
        return _turned(y, sizes, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        half = grads[0].shape[-1] // 2
        parts = zip(*(t.split(ctx.sizes[:2], -2) for t in ctx.saved_tensors), strict=True)
        shape = (*grads[0].shape[:-2], sum(ctx.sizes), 2 * half)
        dy = torch.empty(shape, dtype=torch.float32, device=grads[0].device)
        *turned, last = dy.split(ctx.sizes, -2)
        for (cos, sin), g, d in zip(parts, grads, turned, strict=False):
            torch.mul(g, cos, out=d)
            d[..., :half].addcmul_(g[..., half:], sin[..., half:])
            d[..., half:].addcmul_(g[..., :half], sin[..., :half], value=-1)
        last.copy_(grads[2])
        return dy.to(ctx.dtype), None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        d = torch.empty_like(gate_up)
        first, second = d.chunk(2, -1)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=first)
        torch.mul(grads[0], opened, out=second)
        return d
