"""The forward pass of Llama-like networks in fewer and larger steps, for passes without gradient.

Queries, keys and values are one matrix product, gate and up another; both rotate together. Same numbers as
the network's own forward up to rounding, which is checked before it is used; about half its cost outside the
products when decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewardlab.models.attention import Plan
from rewardlab.models.packing import Linear, packed

Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Layer:
    before: Norm
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    out: Linear
    after: Norm
    gate_up: Linear
    act: Callable[[Tensor], Tensor]
    down: Linear
    heads: int
    kv: int
    scale: float
    window: int | None


class Fused:
    """states(ids Long[B, L], positions Long[B, L], plan) -> Float[B, L, H], from weights as they are now."""

    def __init__(self, net: Any, dtype: torch.dtype) -> None:
        """`net` is the trunk, `dtype` that of the matrix products. AttributeError or ValueError where the
        network is not of this shape."""
        self.embed, self.rotary = net.embed_tokens, net.rotary_emb
        self.norm = _norm(net.norm)
        self.layers = [_layer(layer, dtype) for layer in net.layers]

    def __call__(self, ids: Tensor, position: Tensor, plan: Plan) -> Tensor:
        x = self.embed(ids)
        cos, sin = (t[:, :, None] for t in self.rotary(x, position_ids=position))
        size = cos.shape[-1]
        for number, layer in enumerate(self.layers):
            y = layer.qkv(layer.before(x)).unflatten(-1, (-1, size))
            turning, v = y.split([layer.heads + layer.kv, layer.kv], 2)
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = turning.split([layer.heads, layer.kv], 2)
                turning = torch.cat([layer.q_norm(q), layer.k_norm(k)], 2)
            first, second = turning.chunk(2, -1)
            turned = turning * cos + torch.cat([-second, first], -1) * sin
            q, k = turned.split([layer.heads, layer.kv], 2)
            seen = plan.attend(
                number, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), layer.scale, layer.window
            )
            x = x + layer.out(seen.transpose(1, 2).flatten(2))
            gate, up = layer.gate_up(layer.after(x)).chunk(2, -1)
            x = x + layer.down(layer.act(gate) * up)
        return self.norm(x)


def _layer(layer: Any, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    known = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    if extra := {name for name, _ in layer.named_children()} - known:
        raise ValueError(f"a layer with {', '.join(sorted(extra))}")
    size = attention.head_dim
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return _Layer(
        before=_norm(layer.input_layernorm),
        qkv=packed(_plain(attention.q_proj, attention.k_proj, attention.v_proj), dtype),
        q_norm=None if q_norm is None else _norm(q_norm),
        k_norm=None if k_norm is None else _norm(k_norm),
        out=packed(_plain(attention.o_proj), dtype),
        after=_norm(layer.post_attention_layernorm),
        gate_up=packed(_plain(mlp.gate_proj, mlp.up_proj), dtype),
        act=mlp.act_fn,
        down=packed(_plain(mlp.down_proj), dtype),
        heads=attention.q_proj.out_features // size,
        kv=attention.k_proj.out_features // size,
        scale=float(attention.scaling),
        window=getattr(attention, "sliding_window", None),
    )


def _plain(*layers: Any) -> list[nn.Linear]:
    if any(type(layer) is not nn.Linear for layer in layers):
        raise ValueError("a linear layer with something on it")
    return list(layers)


def _norm(module: Any) -> Norm:
    weight, epsilon = module.weight.detach(), float(module.variance_epsilon)
    shape = (weight.numel(),)
    return lambda x: F.rms_norm(x, shape, weight, epsilon)
