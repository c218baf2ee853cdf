"""AdamW with a warm-up schedule and clipping by global norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.core.settings import Settings
from rewardlab.training.adamw_8bit import AdamW8bit
from rewardlab.training.adamw_offloaded import AdamWOffloaded

NO_PEAKS: Mapping[str, float] = MappingProxyType({})


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
    state: Literal["fp32", "8bit", "offloaded"] = "fp32"
    """The two moments: 8 bytes per trained parameter, 2 (`rewardlab.training.adamw_8bit`), or none on the
    device and 12 in the CPU's memory (`rewardlab.training.adamw_offloaded`; of use with a GPU only)."""


def rate(settings: OptimiserSettings, step: int, steps: int, peak: float | None = None) -> float:
    """Learning rate at a 0-based step: a pure function, so nothing about it needs saving.

    `peak` takes the place of the settings' own peak.
    """
    peak = settings.learning_rate if peak is None else peak
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    shape = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return peak * (settings.final_fraction + (1 - settings.final_fraction) * shape)


def build(
    settings: OptimiserSettings, parameters: dict[str, Tensor], peaks: Mapping[str, float] = NO_PEAKS
) -> torch.optim.Optimizer:
    """The optimiser over named parameters.

    `peaks`: the peak learning rate of parameters that do not have the settings' own, by name. Each group
    keeps its own as `peak`.
    """
    groups = []
    for peak in dict.fromkeys([settings.learning_rate, *peaks.values()]):
        members = [p for k, p in parameters.items() if peaks.get(k, settings.learning_rate) == peak]
        decayed = [p for p in members if p.ndim >= 2]
        others = [p for p in members if p.ndim < 2]
        groups += [
            {"params": decayed, "weight_decay": settings.weight_decay, "peak": peak},
            {"params": others, "weight_decay": 0.0, "peak": peak},
        ]
    knobs: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.state == "8bit":
        return AdamW8bit(groups, **knobs)
    if settings.state == "offloaded":
        return AdamWOffloaded(groups, **knobs)
    return torch.optim.AdamW(groups, **knobs, fused=True)
