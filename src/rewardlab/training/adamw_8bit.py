"""AdamW whose two moments are kept in a byte each (Dettmers et al. 2021, arXiv 2110.02861).

Blocks of 256 values share a scale, their largest magnitude; a value is kept as the nearest entries of a
dynamic map, which has about as many entries in each of seven decades as bits are left there. Two things
differ from the paper. The root of the second moment is kept rather than itself, so that both moments span the
same range and a small one never becomes 0 under a larger first moment. Rounding is stochastic, up or down so
that the mean is right: a step changes a moment by less than the map's spacing, and rounding to the nearest
would lose that change every time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
SMALLEST = 4096
"""Parameters with fewer elements keep fp32 moments: they cost nothing, and norms and biases are delicate."""
SPAN = 1 << 20
"""Elements that are unpacked at a time; a multiple of BLOCK."""


@functools.cache
def dynamic_map(signed: bool) -> Tensor:
    """Float[256], ascending: 0, 1, and for d = 0 ... 6 the midpoints of 2^(7 - d) equal parts of
    (0.1, 1] * 10^-d, or of 2^(6 - d) parts of either sign."""
    found = [0.0, 1.0]
    for decade in range(7):
        parts = 2 ** ((6 if signed else 7) - decade)
        middles = [(0.1 + 0.9 * (i + 0.5) / parts) * 10.0**-decade for i in range(parts)]
        found += middles + ([-x for x in middles] if signed else [])
    return torch.tensor(sorted(found))


def pack(x: Tensor, codes: Tensor, scale: Tensor, *, signed: bool, generator: torch.Generator) -> None:
    """Round Float[n] stochastically into Byte[n] codes and Float[ceil(n / BLOCK)] scales."""
    padded = torch.nn.functional.pad(x, (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    scale.copy_(padded.abs().amax(1))
    unit = (padded / scale.clamp_min(torch.finfo(x.dtype).tiny)[:, None]).flatten()[: x.numel()]
    levels = dynamic_map(signed).to(x.device)
    above = torch.bucketize(unit, levels).clamp_(1, 255)
    low, high = levels[above - 1], levels[above]
    draw = torch.rand(unit.shape, generator=generator, device=x.device)
    found = torch.where(draw * (high - low) < unit - low, above, above - 1)
    if not signed:  # a root of a second moment is 0 only where it is
        found = torch.where(unit > 0, found.clamp_min(1), found)
    codes.copy_(found)


def unpack(codes: Tensor, scale: Tensor, *, signed: bool) -> Tensor:
    """Float[n] that `pack` rounded."""
    values = dynamic_map(signed).to(codes.device)[codes.int()]
    return values * scale.repeat_interleave(BLOCK)[: codes.numel()]


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (decoupled decay) as `torch.optim.AdamW` computes it, with packed moments.

    The draws of a step derive from its number and the parameter's, so a resumed run repeats them.
    """

    def __init__(self, params: Iterable[Any], **knobs: Any) -> None:
        """`knobs`: lr, betas, eps, weight_decay, as groups may have them too."""
        super().__init__(params, knobs)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        number = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group, number)
                number += 1

    def _update(self, p: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[p]
        small = p.numel() < SMALLEST
        if not state:
            state["step"] = 0
            for name in ("mean", "root"):
                shape, dtype = (p.numel(), torch.float32 if small else torch.uint8)
                state[name] = torch.zeros(shape, dtype=dtype, device=p.device)
                if not small:
                    state[f"{name}_scale"] = torch.zeros(-(-p.numel() // BLOCK), device=p.device)
                    state[name].fill_(int(torch.searchsorted(dynamic_map(name == "mean"), 0.0)))
        state["step"] += 1
        generator = torch.Generator(p.device).manual_seed(state["step"] * 1_000_003 + number)
        weights, gradients = p.view(-1), p.grad.reshape(-1).float()  # type: ignore[union-attr]
        for start in range(0, p.numel(), SPAN):
            span = slice(start, start + SPAN)
            blocks = slice(start // BLOCK, (start + SPAN) // BLOCK)
            if small:
                mean, root = state["mean"], state["root"]
            else:
                mean = unpack(state["mean"][span], state["mean_scale"][blocks], signed=True)
                root = unpack(state["root"][span], state["root_scale"][blocks], signed=False)
            _move(weights[span], gradients[span], mean, root, state["step"], group)
            if not small:
                pack(mean, state["mean"][span], state["mean_scale"][blocks], signed=True, generator=generator)
                pack(
                    root, state["root"][span], state["root_scale"][blocks], signed=False, generator=generator
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back `state_dict()`; torch would leave the bytes in the parameters' own type."""
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            for name, value in state.items():
                if name != "step":
                    packed = p.numel() >= SMALLEST and not name.endswith("_scale")
                    state[name] = value.to(torch.uint8 if packed else torch.float32)


def _move(w: Tensor, g: Tensor, mean: Tensor, root: Tensor, step: int, group: dict[str, Any]) -> None:
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w = w (1 - lr decay) - lr m' / (sqrt(v') + eps), in
    place, with m' and v' free of the bias towards their start at 0."""
    beta1, beta2 = group["betas"]
    mean.lerp_(g, 1 - beta1)
    root.square_().mul_(beta2).addcmul_(g, g, value=1 - beta2).sqrt_()
    w.mul_(1 - group["lr"] * group["weight_decay"])
    bias = (1 - beta2**step) ** 0.5
    w.addcdiv_(mean.to(w), (root / bias).add_(group["eps"]).to(w), value=-group["lr"] / (1 - beta1**step))
