"""Hybrids: reinforcement learning on own samples beside imitation of a demonstration or a teacher.

method   loss                                                     weight w
chord    (1 - w) RL + w SFT on the prompts' demonstrations        mu, 0.1
hpt      per prompt, by its number of right answers: RL or SFT    the gate's
uft      RL behind a hint + w NLL of the hint                     0.001
prefix   RL, one answer a prompt behind a prefix + w NLL of it    0.1
kdrl     RL + w KL(policy || teacher) on own samples              5e-3 to 1e-3

CHORD arXiv 2508.11408 (its token weight phi = p (1 - p): `probability_power` and `probability_complement` 1);
HPT arXiv 2509.04419; UFT arXiv 2505.16984; Prefix-RFT arXiv 2507.01679, which trains its prefix tokens on the
answer's advantage where this trains their likelihood; KDRL arXiv 2506.02208. RL is any loss and advantage of
`grpo`, its settings are the same. A hint belongs to the text that the reward sees. Each loss is the mean over
its own rows; with the gate, whose weights are about prompts, over the step's.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Sequence
from rewardlab.models.engine import Engine
from rewardlab.objectives.distillation import teach_failures, teacher_kl
from rewardlab.objectives.reduction import Terms, over
from rewardlab.objectives.schedule import gate_weights, hint_length, mix, most_uncertain, prefix_length, value
from rewardlab.objectives.supervised import probability_weighted
from rewardlab.training import demonstrations as demos
from rewardlab.training.algorithms.grpo import GRPO
from rewardlab.training.algorithms.hybrid_settings import HybridSettings
from rewardlab.training.experience import Experience, raw_scores
from rewardlab.training.probe import Probe
from rewardlab.training.teacher import Teacher


class Hybrid(GRPO):
    """GRPO's samples and credit, and a second loss; `shown[i]` demonstrates an answer to prompt i."""

    def __init__(
        self,
        engine: Engine,
        experience: Experience,
        settings: HybridSettings,
        shown: Rows[Sequence] = (),
        teacher: Engine | None = None,
        *,
        probe: Probe | None = None,
    ) -> None:
        super().__init__(engine, experience, settings, probe=probe)
        if (settings.method == "kdrl") != (teacher is not None):
            raise UserError(
                f"hybrid: method {settings.method} with{'' if teacher else 'out'} a teacher.",
                "A teacher belongs to method kdrl and to no other.",
            )
        if settings.method != "kdrl" and len(shown) != len(experience.prompts):
            raise UserError(
                f"hybrid: {len(experience.prompts)} prompts and {len(shown)} demonstrations.",
                "Give one demonstration per prompt.",
            )
        self.knobs, self.shown = settings, shown
        self.teacher = None if teacher is None else Teacher(teacher, engine)
        self.weights: dict[str, float] = {}

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        s, chosen = self.knobs, self.experience.rows.indices(step)
        hints = self.hints(step, chosen)
        rollouts = self.experience.collect(step, hints=hints)
        second = value(s.second_weight, step)
        self.weights = {"rl": 1.0 - second if s.method == "chord" else 1.0, s.second: second}
        batch, numbers = self.fill(rollouts)
        advantage = batch.streams["advantage"][batch.offsets[1:] - 1]
        self.experience.write(step, rollouts, {"advantage": advantage.tolist()})
        batch, more = self.combine(batch, rollouts, chosen, hints)
        logged = {f"weight_{name}": w for name, w in self.weights.items()}
        return [batch], {**numbers, **logged, **more}

    def hints(self, step: int, chosen: Rows[int]) -> list[list[int]]:
        """The piece of the demonstration in front of each answer; empty where there is none."""
        s, n = self.knobs, self.settings.samples_per_prompt
        if s.method not in ("uft", "prefix"):
            return []
        generator = np.random.default_rng([self.experience.seed, step])
        found: list[list[int]] = []
        for i in chosen:
            answer = demos.answer_ids(self.shown[i])
            if s.method == "uft":
                chunks = min(s.hint_chunks, len(answer))
                pieces = hint_length(step, chunks, s.hint_schedule, generator)
                length = min(pieces * len(answer) // chunks, len(answer) - 1)
                found += [answer[:length]] * n
            else:
                length = prefix_length(step, len(answer), s.hint_schedule, s.prefix_high, generator)
                found += [[]] * (n - 1) + [answer[:length]]
        return found

    def combine(
        self, batch: Batch, rollouts: list[Rollout], chosen: Rows[int], hints: list[list[int]]
    ) -> tuple[Batch, dict[str, float]]:
        """The filled samples with what the second loss reads, and who is trained by which: whole step only.

        Streams: `own` 1 at sampled tokens; `weight_rl` and, but for kdrl, `weight_sft`; `weight` their sum.
        """
        s, own = self.knobs, batch.action.float()
        raw, ok = raw_scores(rollouts)
        batch = batch.with_streams(own=own, weight_rl=batch.weight)
        if self.teacher is not None:
            streams = {"logp_teacher": self.teacher.logprobs(batch)}
            taught = 1.0
            if s.teach != "all":
                seen = raw.where(ok, torch.nan)
                level: Literal["sequence", "group"] = "sequence" if s.teach == "failures" else "group"
                mask = teach_failures(seen, batch.group, solved=s.correct_at, level=level)
                streams["teacher_weight"], taught = mask[batch.seq], float(mask.mean())
            return batch.with_streams(**streams), {"taught": taught}
        if s.method in ("uft", "prefix"):
            at = demos.hint_positions(batch, [len(h) for h in hints])
            batch = replace(batch, action=batch.action | at)
            if (temperature := batch.streams.get("temperature")) is not None:
                batch = batch.with_streams(temperature=temperature.masked_fill(at, 1.0))
            trained = at
            if s.method == "prefix" and s.prefix_share < 1.0:
                entropy = given(self.engine.frozen_logprobs(batch, entropy=True).entropy)
                trained = most_uncertain(entropy, at, batch, s.prefix_share)
            shown = s.samples_per_prompt * sum(self.shown[i].actions for i in chosen)
            sft, more = trained.float(), {"hint_share": float(at.sum()) / shown}
        else:
            group = [rollouts[k * s.samples_per_prompt].group for k in range(len(chosen))]
            samples = batch.size
            batch = demos.append(batch, [self.shown[i] for i in chosen], group)
            mine = torch.arange(batch.size) < samples
            rl_of, sft_of = mine.float(), (~mine).float()
            if s.method == "hpt":
                right = torch.cat([ok & (raw >= s.correct_at), torch.zeros(len(chosen), dtype=torch.bool)])
                rl_of, sft_of = gate_weights(right, mine, batch.group, s.gate)
            batch = batch.with_streams(weight_rl=batch.streams["weight_rl"] * rl_of[batch.seq])
            sft = sft_of[batch.seq] * batch.action
            more = {"imitated_prompts": float((sft_of > 0).sum()) / len(chosen)}
        return batch.with_streams(weight_sft=sft, weight=batch.streams["weight_rl"] + sft), more

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        s, own = self.knobs, batch.streams["own"] > 0
        sampled = demos.part(out, batch, own, "weight_rl")
        parts = {"rl": over(super().objective(*sampled), "weight_rl")}
        if s.method == "kdrl":
            parts["teacher"] = over(teacher_kl(*sampled, estimator=s.teacher_estimator), "weight_rl")
        else:
            shown = demos.part(out, batch, ~own, "weight_sft")
            power, complement = s.probability_power, s.probability_complement
            imitation = probability_weighted(*shown, power=power, complement=complement)
            parts["sft"] = over(imitation, "weight_sft")
        terms = mix(parts, self.weights)
        return s.by_step(terms) if s.method == "hpt" else terms
