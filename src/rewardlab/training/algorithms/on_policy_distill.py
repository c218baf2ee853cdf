"""On-policy distillation: the teacher corrects what the student itself writes.

Each step samples answers from the student and trains on them in one of two ways.

divergence       mean over its tokens of D(student, teacher), the whole next-token distribution (or the
                 teacher's top-k) at each position: reverse KL, forward KL or JSD. GKD with lambda 1
                 (Agarwal et al. 2023, arXiv 2306.13649); the gradient through the sampling is left out.
policy_gradient  A_t = sum_{s >= t} discount^(s - t) (log T(s) - log S(s)), loss = - mean of ratio A: one
                 teacher log-prob a token is enough. discount 0 looks at the token alone, as tinker's
                 on-policy distillation does; discount 1 is the KL between whole answers (MiniLLM's aim,
                 arXiv 2306.08543).

`teacher_gap` (policy_gradient) is the mean of log S - log T over sampled tokens: the one-sample estimate of
the reverse KL. No reward is used; answers cut by the token limit teach as well as others, so they are
trained on unless `train_truncated` is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from rewardlab.core.batch import Batch, Outputs
from rewardlab.models.engine import Engine
from rewardlab.objectives import policy_gradient as pg
from rewardlab.objectives.distillation import teacher_advantage
from rewardlab.objectives.divergence import Divergence
from rewardlab.objectives.reduction import Terms
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.distillation import DivergenceSettings, divergence_terms, fill
from rewardlab.training.experience import Experience, ExperienceSettings, complete, summary
from rewardlab.training.probe import Probe
from rewardlab.training.teacher import Teacher


class OnPolicyDistillSettings(ExperienceSettings, DivergenceSettings):
    """Knobs of the method."""

    prompts_per_step: int = Field(default=16, ge=1)
    samples_per_prompt: int = Field(default=4, ge=1)
    train_truncated: bool = True
    method: Literal["divergence", "policy_gradient"] = "divergence"
    divergence: Divergence = "reverse_kl"
    discount: float = Field(default=0.0, ge=0, le=1)
    """policy_gradient: how far a token answers for what follows it."""

    @model_validator(mode="after")
    def _does_something(self) -> OnPolicyDistillSettings:
        if self.discount and self.method == "divergence":
            raise ValueError("discount acts in `method: policy_gradient` only")
        if self.method == "policy_gradient" and (self.top_k or self.divergence != "reverse_kl"):
            raise ValueError("method: policy_gradient is the reverse KL and reads no top_k")
        return self


class OnPolicyDistill(Algorithm):
    """One batch of the student's own answers a step."""

    def __init__(
        self,
        engine: Engine,
        teacher: Engine,
        experience: Experience,
        settings: OnPolicyDistillSettings,
        *,
        probe: Probe | None = None,
    ) -> None:
        self.engine, self.experience, self.settings, self.probe = engine, experience, settings, probe
        self.teacher = Teacher(teacher, engine)
        self.needs = "logprobs+vocabulary" if settings.method == "divergence" else "logprobs+entropy"

    def batches(self, step: int) -> tuple[list[Batch], Mapping[str, float]]:
        rollouts = self.experience.collect(step)
        self.experience.write(step, rollouts, {})
        numbers = {**summary(rollouts, scored=False), **self.experience.observe(rollouts)}
        done = complete(rollouts).tolist()
        kept = [r for r, whole in zip(rollouts, done, strict=True) if whole or self.settings.train_truncated]
        if not kept:
            return [], numbers
        batch = Batch.pack([r.sequence for r in kept], group=[r.group for r in kept])
        if self.settings.method == "divergence":
            return [fill(batch, self.teacher, self.settings)], numbers
        logp, logp_teacher = batch.streams["logp_sample"], self.teacher.logprobs(batch)
        advantage = teacher_advantage(logp, logp_teacher, batch, discount=self.settings.discount)
        gap = float((logp - logp_teacher)[batch.action].mean())
        return [batch.with_streams(advantage=advantage)], {**numbers, "teacher_gap": gap}

    def objective(self, out: Outputs, batch: Batch) -> Terms:
        if self.settings.method == "divergence":
            return divergence_terms(out, batch, self.teacher, self.settings)
        return pg.policy_gradient(out, batch, aggregation=self.settings.aggregation)

    def evaluate(self) -> Mapping[str, float]:
        return self.probe.look(self.engine) if self.probe else {}

    def state(self) -> dict[str, Any]:
        return self.experience.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.experience.load_state(state)
