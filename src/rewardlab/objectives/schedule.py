"""Hybrids of supervised and reinforcement learning: which loss counts how much, when, and for which prompt.

Pure functions of the step and of group statistics; nothing here trains. In short:

CHORD       (1 - mu) RL + mu SFT on demonstrations, mu from a `Ramp`: `mix`
KDRL        RL + c * KL to a teacher, c from a `Ramp`: `mix`
HPT, AHPO   per prompt, by how many of its samples were right: `Gate`, `gate_weights`
UFT         the first chunks of a demonstration as a hint, fewer and fewer: `hint_length`
Prefix-RFT  one sample continues a piece of a demonstration: `prefix_length`, `most_uncertain`

A demonstration is a sequence of the batch like any other; whether RL or SFT reads it is a matter of weights
made at fill time, on the whole step. A mean "over the demonstrations" and one "over the samples" in one
batch: `on` and `reduction.over` with the same stream, or weights from `supervised.source_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.objectives.reduction import Terms


class Ramp(Settings):
    """A number that changes with the step: `start` to `peak`, held there, then down (or up) to `end`."""

    peak: float
    start: float | None = None
    """Value at step 0; left out, it is `peak`."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps from `start` to `peak`, linearly."""
    hold_steps: int = Field(default=0, ge=0)
    """Steps at `peak`."""
    decay_steps: int = Field(default=0, ge=0)
    """Steps from `peak` to `end`; 0 never decays."""
    end: float = 0.0
    """Value at the end of the decay."""
    after: float | None = None
    """Value from then on; left out, it is `end`."""
    shape: Literal["cosine", "linear"] = "cosine"
    """Of the decay."""


def value(ramp: Ramp | float, step: int) -> float:
    """The ramp's value at a step counted from 0; a plain number is constant.

    warm-up: start + (peak - start) step / warmup_steps.  decay, with x from 0 to 1 over decay_steps:
    cosine end + (peak - end) (1 + cos(pi x)) / 2, linear peak + (end - peak) x.

    CHORD's mu (arXiv 2508.11408): start 0, peak, warmup_steps, decay_steps, end its valley. UFT's hint
    probability (arXiv 2505.16984): peak 0.95, decay_steps 300, end 0.05, after 0. KDRL's coefficient (arXiv
    2506.02208): peak 5e-3, end 1e-3, linear.
    """
    if not isinstance(ramp, Ramp):
        return float(ramp)
    start = ramp.peak if ramp.start is None else ramp.start
    if step < ramp.warmup_steps:
        return start + (ramp.peak - start) * step / ramp.warmup_steps
    into = step - ramp.warmup_steps - ramp.hold_steps
    if into < 0 or ramp.decay_steps == 0:
        return ramp.peak
    if into >= ramp.decay_steps:
        return ramp.end if ramp.after is None else ramp.after
    x = into / ramp.decay_steps
    if ramp.shape == "linear":
        return ramp.peak + (ramp.end - ramp.peak) * x
    return ramp.end + (ramp.peak - ramp.end) * 0.5 * (1.0 + math.cos(math.pi * x))


def mix(parts: Mapping[str, Terms], weights: Mapping[str, float]) -> Terms:
    """A weighted sum of losses: sum over parts of weight * loss. Terms are renamed `part/term`.

    Weights multiply the coefficients and leave the totals alone, so that the log shows each loss at its own
    size. A part of weight 0 is still reported. CHORD: weights {"rl": 1 - mu, "sft": mu}.
    """
    if set(parts) != set(weights):
        raise UserError(
            f"mix: losses {sorted(parts)} but weights for {sorted(weights)}.", "Give one weight per loss."
        )
    return {
        f"{part}/{name}": replace(term, coefficient=term.coefficient * weights[part])
        for part, terms in parts.items()
        for name, term in terms.items()
    }


def on(batch: Batch, stream: str) -> Batch:
    """The batch with another weight stream in place of `weight`, for a loss that reads a part of it.

    A term's divisor stays the whole step's count (`Batch.counts()` of the batch that the loop holds), so the
    loop's batch needs a `weight` that is not 0 wherever a part's is not. `reduction.over` makes it the
    part's count.
    """
    return batch.with_streams(weight=batch.streams[stream])


class Branch(Settings):
    """Weights of the two losses for a prompt."""

    rl: float = Field(default=1.0, ge=0)
    """Of the policy's own samples."""
    sft: float = Field(default=0.0, ge=0)
    """Of the prompt's demonstrations."""


class Level(Branch):
    """Weights for prompts with few correct samples."""

    at_most: int = Field(ge=0)
    """Holds where no more than this many of the prompt's samples are correct."""


class Gate(Settings):
    """Which loss trains a prompt, by how many of its samples were correct. The default is HPT's gate 0."""

    levels: tuple[Level, ...] = (Level(at_most=0, rl=0.0, sft=1.0),)
    """The first one, by rising `at_most`, that holds is taken."""
    above: Branch = Branch()
    """Where none holds."""


def gate_weights(correct: Tensor, own: Tensor, group: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    """RL and SFT weight of every sequence. Bool[N], Bool[N], Long[N] -> Float[N], Float[N].

    c = number of correct own samples in the sequence's group; the gate's level for c gives (rl, sft).
    RL weight: rl for own samples, 0 for demonstrations. SFT weight: sft for demonstrations, 0 for samples.

    HPT (Lv et al. 2025, arXiv 2509.04419): levels [at_most gate: rl 0, sft 1], gate 0 or 2, or more levels
    for its soft form. AHPO (MM-HELIX, arXiv 2510.08540), which keeps the samples: rl 1, sft 1 below.
    `correct` is not read where `own` is false. Whole groups only: call it when the batch is filled. RL
    weight 0 leaves a sample in its group's statistics.
    """
    _, number = group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    zeros = torch.zeros(group.numel(), dtype=torch.long, device=group.device)
    count = zeros.index_add(0, number, (correct & own).long())[number]
    rl = torch.full(count.shape, gate.above.rl)
    sft = torch.full(count.shape, gate.above.sft)
    for level in sorted(gate.levels, key=lambda x: -x.at_most):
        below = count <= level.at_most
        rl[below], sft[below] = level.rl, level.sft
    return rl * own, sft * ~own


def hint_length(step: int, chunks: int, probability: Ramp | float, generator: np.random.Generator) -> int:
    """How many of a demonstration's chunks are given as a hint (UFT, arXiv 2505.16984).

    l ~ Binomial(chunks, p(step)), 0 <= l <= chunks. The paper cuts a demonstration into at most 5 chunks and
    trains on the hint too, with NLL times 0.001, beside RL on what follows it.
    """
    p = value(probability, step)
    if not 0.0 <= p <= 1.0:
        raise UserError(f"hint_length: the probability at step {step} is {p}.", "Keep it within 0 and 1.")
    return int(generator.binomial(chunks, p))


def prefix_length(
    step: int, length: int, low: Ramp | float, high: float, generator: np.random.Generator
) -> int:
    """How many tokens of a demonstration one sample of the group continues (Prefix-RFT, arXiv 2507.01679).

    floor(u * length), u ~ Uniform(low(step), high); low falls from high to about 0 over training, so that
    ever more of the answer is the policy's own. At least one token is left to the policy.
    """
    bottom = value(low, step)
    if not 0.0 <= bottom <= high <= 1.0:
        raise UserError(
            f"prefix_length: low {bottom} at step {step} and high {high} are not 0 <= low <= high <= 1.",
            "Let `low` start at `high` and fall.",
        )
    return min(int(generator.uniform(bottom, high) * length), max(length - 1, 0))


def most_uncertain(entropy: Tensor, prefix: Tensor, batch: Batch, share: float) -> Tensor:
    """The prefix tokens that are trained: in every sequence the `share` of highest entropy. Bool[T].

    ceil(share * n) of a sequence's n prefix tokens, the earlier first among equals; tokens outside `prefix`
    are never chosen. Prefix-RFT trains on these only, so that a demonstration corrects where the policy
    hesitates and leaves the rest alone. Call it when the batch is filled; it becomes the prefix's weight.
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f"most_uncertain: the share must lie between 0 and 1, got {share}.", "Try 0.2.")
    chosen = torch.zeros_like(prefix)
    offsets = batch.offsets.tolist()
    for a, b in pairwise(offsets):
        at = a + prefix[a:b].nonzero().squeeze(-1)
        keep = math.ceil(share * at.numel() - 1e-9)  # 0.2 * 5 is 1, not 2
        order = torch.sort(entropy[at], descending=True, stable=True).indices
        chosen[at[order[:keep]]] = True
    return chosen
