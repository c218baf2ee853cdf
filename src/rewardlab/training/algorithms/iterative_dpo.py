"""Iterative DPO: rounds of sampling pairs, and several preference updates on each round's buffer.

At the start of a round the policy answers `prompts_per_round` prompts, the reward's best and worst answer
to each make a pair, and the buffer keeps the pairs of this round, of the last k, or all. Then come
`updates_per_round` updates on pairs of the buffer, shuffled anew each round.

Papers: iterative DPO as in Xiong et al. 2023 (arXiv 2312.11456, reference: the start) and Pang et al. 2024
(Iterative RPO, arXiv 2404.19733, reference: the policy at the round's start; its NLL term is the loss
{sigmoid: 1, sft: 1}). With `reference: round` the log-probs of the whole buffer, older pairs too, are those
of the policy at this round's start, so no second model is kept. One update per round on the current pairs
with `reference: start` is online DPO.

How stale the trained pairs are is logged: `pair_age_rounds` and `pair_age_steps` (optimiser steps since the
answers were sampled; mean over the batch) and `pair_age_steps_max`.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine, Reference
from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.training.algorithms.online_dpo import own_pairs
from rewardlab.training.buffer import Kept, from_state, keep, to_state
from rewardlab.training.experience import Experience, ExperienceSettings
from rewardlab.training.preference import PreferenceAlgorithm, reference_logprobs, refuse_deviation
from rewardlab.training.probe import Probe


class IterativeDPOSettings(ExperienceSettings, PreferenceSettings):
    """Knobs of the method."""

    prompts_per_round: int = Field(default=64, ge=1)
    samples_per_prompt: int = Field(default=4, ge=2)
    updates_per_round: int = Field(default=8, ge=1)
    pairs_per_step: int = Field(default=16, ge=1)
    buffer: str = Field(default="current", pattern=r"^(current|full|rolling:[1-9][0-9]*)$")
    """`current`: this round's pairs; `rolling:k`: those of the last k rounds; `full`: all."""
    reference: Literal["round", "start"] = "round"
    """The policy at the round's start, or the one that the stage starts from."""


class IterativeDPO(PreferenceAlgorithm):
    """A buffer of own pairs, refilled every `updates_per_round` steps."""

    def __init__(
        self,
        engine: Engine,
        experience: Experience,
        settings: IterativeDPOSettings,
        *,
        probe: Probe | None = None,
    ) -> None:
        refuse_deviation(settings, "iterative_dpo")
        if settings.needs_reference_distribution and settings.reference == "round":
            raise UserError(
                "iterative_dpo: tdpo needs the reference's distributions, and only the start's are at hand.",
                "Set `reference: start`.",
            )
        super().__init__(engine, settings)
        self.experience, self.knobs, self.probe = experience, settings, probe
        self.buffer: list[Kept] = []
        frozen = settings.needs_reference and settings.reference == "start"
        self.reference = Reference(engine) if frozen else None

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        round_, within = divmod(step, self.knobs.updates_per_round)
        numbers = self._refill(round_, step) if within == 0 else {}
        numbers |= {"round": float(round_), "buffer": float(len(self.buffer))}
        if not self.buffer:
            return [], numbers
        seed = int(np.random.default_rng([self.experience.seed, round_]).integers(2**31))
        chosen = RowSampler(len(self.buffer), self.knobs.pairs_per_step, seed).indices(within)
        pairs = [self.buffer[i] for i in chosen]
        references = [p.logp_ref for p in pairs if p.logp_ref is not None]
        updates, more = self.update([p.row for p in pairs], torch.cat(references) if references else None)
        ages = [step - p.row.chosen.version for p in pairs]
        return updates, {
            **numbers,
            **more,
            "pair_age_rounds": fmean(round_ - p.round for p in pairs),
            "pair_age_steps": fmean(ages),
            "pair_age_steps_max": float(max(ages)),
        }

    def _refill(self, round_: int, step: int) -> dict[str, float]:
        """Sample this round's pairs, let go of old ones, and set the reference's log-probs."""
        rollouts = self.experience.collect(round_, version=step)
        rows, numbers = own_pairs(self.experience, rollouts, self.knobs, step)
        old = keep(self.buffer, self.knobs.buffer, round_)
        fresh = [Kept(row, round_) for row in rows]
        if not self.knobs.needs_reference:
            self.buffer = old + fresh
        elif self.reference:
            self.buffer = old + _with_reference(fresh, reference_logprobs(self.reference.logprobs, rows))
        else:
            both = old + fresh
            self.buffer = _with_reference(both, reference_logprobs(self.logprobs, [p.row for p in both]))
        return numbers

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return super().state() | self.experience.state() | {"buffer": to_state(self.buffer)}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.experience.load_state(state)
        self.buffer = from_state(state["buffer"])


def _with_reference(pairs: list[Kept], logp_ref: list[torch.Tensor]) -> list[Kept]:
    return [Kept(p.row, p.round, x) for p, x in zip(pairs, logp_ref, strict=True)]
