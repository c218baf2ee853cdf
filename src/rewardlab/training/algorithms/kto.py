"""KTO: make good answers more likely and bad ones less, with no partner to compare them with.

good: desirable_weight (1 - sigmoid(beta (D - z0)));  bad: undesirable_weight (1 - sigmoid(beta (z0 - D)))

D is the answer's change of log-prob since the start. z0, how far the policy has moved in general, is the mean
change of the answers of other prompts, at least 0 and without gradient (Ethayarajh et al. 2024, arXiv
2402.01306). It is measured before each step in a pass of its own over the step's prompts with the next row's
answer each. All log-probs of the starting policy are computed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.settings import Settings
from rewardlab.core.types import Sequence
from rewardlab.data.sampler import RowSampler
from rewardlab.models.engine import Engine
from rewardlab.models.reference_cache import ReferenceCache
from rewardlab.objectives.preference import kl_baseline, kto
from rewardlab.objectives.reduction import Terms
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.loop import mean_terms
from rewardlab.training.probe import Probe
from rewardlab.training.reference import sequence_logprobs


@dataclass(frozen=True)
class AnswerRow:
    """An answer with its verdict, and another prompt's answer in its place."""

    answer: Sequence
    desirable: float
    """1 good, 0 bad."""
    mismatched: Sequence
    """The same prompt with the answer of another row."""


class KTOSettings(Settings):
    """Knobs of the method."""

    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the starting policy."""
    desirable_weight: float = Field(default=1.0, ge=0)
    undesirable_weight: float = Field(default=1.0, ge=0)
    """Where good and bad rows are unequally many, weights that make n_good w_good : n_bad w_bad lie between
    1 : 1 and 3 : 2 are the paper's advice (TRL's is up to 4 : 3)."""
    answers_per_step: int = Field(default=32, ge=2)


class KTO(Algorithm):
    """Batches of judged answers. Build it before any step is taken."""

    def __init__(
        self,
        engine: Engine,
        rows: list[AnswerRow],
        held_out: list[AnswerRow],
        settings: KTOSettings,
        *,
        seed: int,
        probe: Probe | None = None,
        progress: Progress = NO_PROGRESS,
        cache: ReferenceCache | None = None,
    ) -> None:
        self.engine, self.rows, self.held_out = engine, rows, held_out
        self.settings, self.probe = settings, probe
        self.sampler = RowSampler(len(rows), settings.answers_per_step, seed)

        def once(given_rows: list[AnswerRow]) -> list[list[Tensor]]:
            columns = [r.answer for r in given_rows], [r.mismatched for r in given_rows]
            return [sequence_logprobs(engine, column, progress, cache) for column in columns]

        self.reference, self.held_out_reference = once(rows), once(held_out)

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        chosen = self.sampler.indices(step)
        batch = self.fill([self.rows[i] for i in chosen], [[r[i] for i in chosen] for r in self.reference])
        return [batch], {"kl_baseline": float(batch.parts["kl_baseline"][0])}

    def fill(self, rows: Rows[AnswerRow], reference: list[list[Tensor]]) -> Batch:
        """The step's answers with `desirable` and the step's `kl_baseline`."""
        own, other = (torch.cat(column) for column in reference)
        mismatched = Batch.pack(r.mismatched for r in rows).with_streams(logp_ref=other)
        baseline = kl_baseline(given(self.engine.frozen_logprobs(mismatched).logp), mismatched)
        parts = {
            "desirable": torch.tensor([r.desirable for r in rows]),
            "kl_baseline": baseline.expand(len(rows)),
        }
        return replace(Batch.pack(r.answer for r in rows), parts=parts).with_streams(logp_ref=own)

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        s = self.settings
        return kto(
            out,
            batch,
            beta=s.beta,
            desirable_weight=s.desirable_weight,
            undesirable_weight=s.undesirable_weight,
        )

    def evaluate(self) -> Mapping[str, float]:
        found = dict(self.probe.look(self.engine)) if self.probe else {}
        if self.held_out:
            found |= mean_terms(self, self.fill(self.held_out, self.held_out_reference))
        return found
