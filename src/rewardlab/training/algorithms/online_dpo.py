"""Online DPO: the reward's best and worst of the policy's own answers become the pair to learn from.

Each step samples n >= 2 answers per prompt; of each prompt's answers the one with the highest and the one
with the lowest score make a pair, and one preference update is taken on the step's pairs against the
starting policy. `loss` is any preference loss; with `sigmoid` this is OAIF with a reward model as the
annotator (Guo et al. 2024, arXiv 2402.04792), with `ipo` online IPO (Calandriello et al. 2024, arXiv
2403.08635). TRL: OnlineDPOTrainer, always two answers.

Prompts whose usable answers all tie, or number fewer than two, give no pair and are counted; a step without
any pair takes no update.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from pydantic import Field

from rewardlab.core.batch import Batch
from rewardlab.core.types import Rollout
from rewardlab.models.engine import Engine, Reference
from rewardlab.objectives.preference import PreferenceSettings
from rewardlab.training.experience import Experience, ExperienceSettings, summary, usable
from rewardlab.training.pairs import PairRow, best_and_worst, pack_pairs, value_of
from rewardlab.training.preference import PreferenceAlgorithm, refuse_deviation
from rewardlab.training.probe import Probe


class OnlineDPOSettings(ExperienceSettings, PreferenceSettings):
    """Knobs of the method."""

    prompts_per_step: int = Field(default=16, ge=1)
    samples_per_prompt: int = Field(default=4, ge=2)


class OnlineDPO(PreferenceAlgorithm):
    """One batch of fresh pairs a step."""

    def __init__(
        self,
        engine: Engine,
        experience: Experience,
        settings: OnlineDPOSettings,
        *,
        probe: Probe | None = None,
    ) -> None:
        refuse_deviation(settings, "online_dpo")
        super().__init__(engine, settings)
        self.experience, self.sampling, self.probe = experience, settings, probe
        self.reference = Reference(engine) if settings.needs_reference else None

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        rollouts = self.experience.collect(step)
        rows, numbers = own_pairs(self.experience, rollouts, self.sampling, step)
        if not rows:
            return [], numbers
        logp_ref = self.reference.logprobs(pack_pairs(rows)) if self.reference else None
        updates, more = self.update(rows, logp_ref)
        return updates, {**numbers, **more}

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return super().state() | self.experience.state()

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.experience.load_state(state)


def own_pairs(
    experience: Experience, rollouts: list[Rollout], settings: ExperienceSettings, step: int
) -> tuple[list[PairRow], dict[str, float]]:
    """Best against worst of each prompt, on record with the rollouts, and numbers to log.

    The record's column `pair` is 1 for a chosen answer, -1 for a rejected one and 0 for the others.
    """
    chosen, without = best_and_worst(rollouts, usable(rollouts, settings).tolist())
    role = [0.0] * len(rollouts)
    gaps = []
    for best, worst in chosen:
        role[best], role[worst] = 1.0, -1.0
        gaps.append(value_of(rollouts[best]) - value_of(rollouts[worst]))
    experience.write(step, rollouts, {"pair": role})
    numbers = {
        **summary(rollouts),
        "pairs": float(len(chosen)),
        "prompts_without_pair": float(without),
        "score_gap": fmean(gaps) if gaps else 0.0,
        **experience.observe(rollouts),
    }
    return [PairRow(rollouts[a].sequence, rollouts[b].sequence) for a, b in chosen], numbers
