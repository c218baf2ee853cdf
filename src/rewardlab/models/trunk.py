"""The forward pass of Llama-like networks in fewer and larger steps, with or without gradient.

Queries, keys and values are one matrix product, gate and up another; norms and rotations have backward passes
of their own; and the last layer computes, after its attention, only the rows that someone reads. Same numbers
as the network's own forward up to rounding, which is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import SiLUActivation

from rewardlab.models.attention import Forest, Plan
from rewardlab.models.elementwise import heads_of, rms_norm, swiglu
from rewardlab.models.packing import Linear, packed

FEW = 16
"""Where at most one place in so many is read, the last layer computes the queries of those alone."""

Norm = Callable[[Tensor], Tensor]
Join = Callable[[list[nn.Linear]], Linear]
"""Linear layers with the same input as one."""


def joined(layers: list[nn.Linear]) -> Linear:
    """x -> the outputs of these layers side by side, differentiable, from the weights as they are then."""
    if any(type(layer) is not nn.Linear for layer in layers):  # adapters, say
        return lambda x: torch.cat([layer(x) for layer in layers], -1)
    if len(layers) == 1:
        return layers[0]

    def forward(x: Tensor) -> Tensor:
        bias = None
        if any(layer.bias is not None for layer in layers):
            bias = torch.cat(
                [x.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
            )
        return F.linear(x, torch.cat([layer.weight for layer in layers]), bias)

    return forward


def packing(dtype: torch.dtype) -> Join:
    """As `joined`, for passes without gradient and with fixed weights; ValueError with adapters."""

    def join(layers: list[nn.Linear]) -> Linear:
        if any(type(layer) is not nn.Linear for layer in layers):
            raise ValueError("a linear layer with something on it")
        return packed(layers, dtype)

    return join


@dataclass(frozen=True)
class _Layer:
    before: Norm
    qkv: Linear
    q: Linear
    kv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    out: Linear
    after: Norm
    gate_up: Linear
    glu: Callable[[Tensor], Tensor]
    down: Linear
    heads: tuple[int, int, int]
    """Of queries, keys and values."""
    scale: float
    window: int | None


class Trunk:
    """states(ids Long[B, L], positions Long[B, L], plan, rows) -> Float[B, L, H], or Float[A, H] of `rows`.

    `rows` Long[A] counts the B * L places; only they are computed to the end.
    """

    def __init__(self, net: Any, dtype: torch.dtype, join: Join = joined) -> None:
        """`net` is the trunk, `dtype` that of the matrix products. AttributeError or ValueError where the
        network is not of this shape."""
        self.embed, self.rotary = net.embed_tokens, net.rotary_emb
        self.norm = _norm(net.norm, torch.float32)
        self.layers = [_layer(layer, dtype, join) for layer in net.layers]

    def __call__(
        self, ids: Tensor, position: Tensor, plan: Plan, rows: Tensor | None = None, *, again: bool = False
    ) -> Tensor:
        """`again`: keep only each layer's input, and compute the rest a second time in the backward pass."""
        x = self.embed(ids)
        turning = sum(self.layers[0].heads[:2])
        cos, sin = (
            t.float()[:, :, None].expand(-1, -1, turning, -1).contiguous()
            for t in self.rotary(x, position_ids=position)
        )
        few = rows is not None and rows.numel() * FEW <= ids.numel() and isinstance(plan, Forest)
        for number, layer in enumerate(self.layers):
            read = rows if number + 1 == len(self.layers) else None
            through = _reading if few and read is not None else _through
            inputs = (number, layer, x, cos, sin, plan, read)
            x = checkpoint(through, *inputs, use_reentrant=False) if again else through(*inputs)
        return self.norm(x)


def _through(
    number: int, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, plan: Plan, rows: Tensor | None
) -> Tensor:
    """One layer; after its attention only `rows` go on, if they are given."""
    q, k, v = _heads(layer, layer.qkv(layer.before(x)), layer.heads, cos, sin)
    seen = plan.attend(number, q, k, v, layer.scale, layer.window).transpose(1, 2).flatten(2)
    if rows is not None:
        x, seen = x.flatten(0, 1).index_select(0, rows), seen.flatten(0, 1).index_select(0, rows)
    return _after(layer, x, seen)


def _reading(
    number: int, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, plan: Forest, rows: Tensor
) -> Tensor:
    """One layer of which only `rows` are read: their queries alone, and the keys and values of all."""
    y = layer.before(x)
    queries, keys, values = layer.heads
    _, k, v = _heads(layer, layer.kv(y), (0, keys, values), cos[:, :, :keys], sin[:, :, :keys])
    y, cos, sin = (t.index_select(1, rows) for t in (y, cos[:, :, :queries], sin[:, :, :queries]))
    q, _, _ = _heads(layer, layer.q(y), (queries, 0, 0), cos, sin)
    seen = plan.read(rows, q[0].transpose(0, 1), k, v, layer.scale, layer.window)
    return _after(layer, x[0].index_select(0, rows), seen.flatten(1))


def _heads(
    layer: _Layer, y: Tensor, sizes: tuple[int, int, int], cos: Tensor, sin: Tensor
) -> tuple[Tensor, ...]:
    """Float[B, heads, L, D] of queries, keys and values from their products, as many heads as `sizes`."""
    y = y.unflatten(-1, (-1, cos.shape[-1]))
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k, v = y.split(sizes, 2)
        y = torch.cat([layer.q_norm(q), layer.k_norm(k), v], 2)
    return tuple(t.transpose(1, 2) for t in heads_of(y, sizes, cos, sin))


def _after(layer: _Layer, x: Tensor, seen: Tensor) -> Tensor:
    """What follows a layer's attention."""
    x = x + layer.out(seen)
    return x + layer.down(layer.glu(layer.gate_up(layer.after(x))))


def _layer(layer: Any, dtype: torch.dtype, join: Join) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    known = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    if extra := {name for name, _ in layer.named_children()} - known:
        raise ValueError(f"a layer with {', '.join(sorted(extra))}")
    size = attention.head_dim
    queries, keys = attention.q_proj.out_features // size, attention.k_proj.out_features // size
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return _Layer(
        before=_norm(layer.input_layernorm, dtype),
        qkv=join([attention.q_proj, attention.k_proj, attention.v_proj]),
        q=joined([attention.q_proj]),
        kv=joined([attention.k_proj, attention.v_proj]),
        q_norm=None if q_norm is None else _norm(q_norm, torch.float32),
        k_norm=None if k_norm is None else _norm(k_norm, torch.float32),
        out=join([attention.o_proj]),
        after=_norm(layer.post_attention_layernorm, dtype),
        gate_up=join([mlp.gate_proj, mlp.up_proj]),
        glu=swiglu if isinstance(mlp.act_fn, (nn.SiLU, SiLUActivation)) else _glu(mlp.act_fn),
        down=join([mlp.down_proj]),
        heads=(queries, keys, keys),
        scale=float(attention.scaling),
        window=getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None)),
    )


def _glu(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def glu(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        return act(gate) * up

    return glu


def _norm(module: Any, dtype: torch.dtype) -> Norm:
    epsilon = float(module.variance_epsilon)
    return lambda x: rms_norm(x, module.weight, epsilon, dtype)
