"""AdamW with a warm-up schedule and clipping by global norm."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.settings import Settings


class OptimiserSettings(Settings):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    learning_rate: float = 1e-4
    """Peak, reached after warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """From the peak: stay, or fall to `final_fraction` of it at the last step."""
    warmup_fraction: float = 0.05
    """Share of the steps over which the rate rises linearly."""
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    """Applied to matrices only; biases and norms are left alone."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""


def rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Learning rate at a 0-based step: a pure function, so nothing about it needs saving."""
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    shape = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * shape)


def build(settings: OptimiserSettings, parameters: dict[str, Tensor]) -> torch.optim.AdamW:
    """The optimiser over named parameters, fused where the device has it."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
