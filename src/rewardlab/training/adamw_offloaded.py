"""AdamW that keeps its moments, and a copy of the parameters, in the CPU's memory, and updates there.

On a GPU this frees 8 bytes per trained parameter; a step costs a copy of the gradients to the CPU and one of
the parameters back (Ren et al. 2021, ZeRO-Offload, arXiv 2101.06840, without its overlap of the two).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class AdamWOffloaded(torch.optim.AdamW):
    """`torch.optim.AdamW` over CPU copies of the parameters: the same updates wherever they live.

    Its groups hold the copies; gradients are read from the parameters that were given.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **knobs: Any) -> None:
        """`groups`: each with `params`; `knobs`: those of AdamW."""
        groups = list(groups)
        self.live: list[list[Tensor]] = [list(group["params"]) for group in groups]
        copies = [
            {**group, "params": [_copy(p) for p in live]}
            for group, live in zip(groups, self.live, strict=True)
        ]
        super().__init__(copies, **knobs, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for copy, p in self._both():
            copy.grad = None if p.grad is None else p.grad.to("cpu", copy.dtype)
        super().step()
        for copy, p in self._both():
            if copy.grad is not None:
                p.copy_(copy)
                copy.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the parameters that were given."""
        for _, p in self._both():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back `state_dict()`, and the parameters as they are now."""
        super().load_state_dict(state_dict)
        for copy, p in self._both():
            copy.copy_(p)

    def _both(self) -> list[tuple[Tensor, Tensor]]:
        """Each copy with its parameter."""
        copies = [p for group in self.param_groups for p in group["params"]]
        return list(zip(copies, [p for live in self.live for p in live], strict=True))


def _copy(p: Tensor) -> Tensor:
    """In fp32 on the CPU, never `p` itself."""
    return p.detach().to("cpu", torch.float32, copy=True).requires_grad_()
