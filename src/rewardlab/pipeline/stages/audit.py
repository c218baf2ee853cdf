"""The report card of a reward or judge, or of several side by side, on held-out pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from rewardlab.audit.edits import FILLER
from rewardlab.audit.scoring import rollouts_of
from rewardlab.audit.sections import chosen_sections, full_audit
from rewardlab.audit.subject import JudgedSubject, ScoredSubject
from rewardlab.core.errors import UserError
from rewardlab.core.progress import Task
from rewardlab.core.types import Pair, Prompt, Rollout, Score
from rewardlab.data.rendering import render_prompt
from rewardlab.evaluation.best_of_n import best_of_n
from rewardlab.judges.base import Comparison
from rewardlab.pipeline import rows
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage
from rewardlab.records.atomic import write_text
from rewardlab.reporting.audit_page import audit_page
from rewardlab.rollout.sampler import Sampler, drawing, to_rollouts
from rewardlab.worlds.advice.language import FILLERS

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

Subject = ScoredSubject | JudgedSubject


class AuditStage(Stage):
    """Is the reward right, calibrated, biased, stable, exploitable?"""

    judged: ClassVar[tuple[str, ...]] = ("reward", "against")
    kind: Literal["audit"] = "audit"
    reward: str = "reward"
    """Stage name of a reward model, a model folder, a built-in reward, or a name under the recipe's
    `rewards:` or `judges:`."""
    against: list[str] = []
    """Other rewards or judges to audit on the same pairs, side by side."""
    data: Sources
    policy: str | None = None
    """Sample this policy for the best-of-n curve: `base`, a stage name or a model folder."""
    reference: str | None = None
    """Reward that the best-of-n curve is judged by, independent of the audited one; left out: the world's
    gold, the gold values of the pairs, or the first of `against`."""
    only: list[str] = []
    """Sections to run: discrimination, calibration, bias, invariance, exploitability; left out: all."""
    skip: list[str] = []
    """Sections to leave out."""
    probe_pairs: int = Field(default=500, ge=10)
    """Pairs, a seeded sample, that probes edit; more pairs make only their intervals narrower."""
    attack_calls: int = Field(default=2000, ge=0)
    """Answers that the attack search may have scored, for each reward."""
    half_width: float = Field(default=0.02, gt=0, lt=0.5)
    """The wanted half-width of the accuracy's interval; the report says how many pairs that takes."""
    subset_field: str = "subset"
    """Meta field that names a pair's subset."""
    leaderboard: dict[str, float] = {}
    """Known quality of systems, compared with the mean scores of the answers of `system_chosen` and
    `system_rejected` in the meta."""
    own_system: str = ""
    """The system that a judge is, to test whether it prefers its own answers."""
    chat_templates: list[str] = []
    """Other chat templates to render the audited reward model's input with."""
    prompts: int = Field(default=64, ge=1)
    """Prompts that `policy` answers."""
    samples_per_prompt: int = Field(default=16, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)
    stop_sequences: tuple[str, ...] = ()
    """Texts that end an answer as the stop token does; the answer keeps them."""

    def references(self) -> list[tuple[str, str]]:
        """The rewards or judges, and the policy."""
        named = [("reward", self.reward), *(("against", r) for r in self.against)]
        named += [("policy", self.policy)] if self.policy and self.policy != "base" else []
        return [*named, *([("reference", self.reference)] if self.reference else [])]

    def run(self, context: Context) -> Outcome:
        """Audit each reward and write the page."""
        sections = chosen_sections(self.only, self.skip)
        pairs = []
        for number, data in enumerate(self.data):
            use = f"{self.name}.data.{number}" if len(self.data) > 1 else f"{self.name}.data"
            loaded = rows.load_pairs(context, data, use)
            context.run.add_data(use, loaded.facts())
            pairs.extend(loaded.rows)
        of_world = all(data.source.startswith("world") for data in self.data)
        padding = FILLERS[:3] if of_world else FILLER  # in a world, sentences that its rewards have seen
        sampled = self._sampled(context, pairs)
        cards: dict[str, Any] = {}
        for name in dict.fromkeys([self.reward, *self.against]):
            calls = 2 * len(pairs) + 60 * min(self.probe_pairs, len(pairs)) + self.attack_calls
            with context.progress.task(f"{self.name}: {name}", calls) as task:
                subject = self._subject(context, name, task)
                cards[name] = full_audit(
                    subject,
                    pairs,
                    seed=derive(context.recipe.seed, self.name),
                    sections=sections,
                    probe_pairs=self.probe_pairs,
                    padding=padding,
                    half_width=self.half_width,
                    subset_field=self.subset_field,
                    leaderboard=self.leaderboard,
                    own_system=self.own_system,
                    attack_calls=self.attack_calls,
                    variants=self._variants(context, name, task),
                    best_of_n=self._curve(context, subject, pairs, sampled, of_world),
                )
        title = f"Audit of {', '.join(cards)}"
        facts = {
            "pairs": len(pairs),
            "data": ", ".join(d.source for d in self.data),
            "seed": context.recipe.seed,
        }
        page = {"title": title, "facts": facts, "rewards": cards}
        write_text(context.run.folder / f"{self.name}.json", json.dumps(page, indent=1, allow_nan=False))
        write_text(context.run.folder / f"{self.name}.html", audit_page(page))
        lights = {name: card["verdict"]["light"] for name, card in cards.items()}
        file = f"{self.name}.html"
        return {
            "reward_model": cards[self.reward],
            "audit": {"page": file, "lights": lights},
            "pages": [{"title": title, "file": file}],
        }

    def _subject(self, context: Context, name: str, task: Task, *, variant: str = "") -> Subject:
        """The reward or judge with its cache in the stage's folder."""
        slug = re.sub(r"\W+", "-", f"{name} {variant}".strip())
        file = context.run.stage(self.name).folder / f"scores-{slug}.jsonl"
        if name in context.recipe.judges:
            return JudgedSubject(_Counted(context.judge(name), task), file=file)
        return ScoredSubject(name, _Counted(context.reward(name), task).score, file=file)

    def _variants(self, context: Context, name: str, task: Task) -> dict[str, ScoredSubject]:
        """The same reward model under other chat templates."""
        found = {}
        for template in self.chat_templates:
            model = context.recipe.model.model_copy(update={"chat_template": template})
            other = replace(context, recipe=context.recipe.model_copy(update={"model": model}))
            subject = self._subject(other, name, task, variant=template)
            if isinstance(subject, ScoredSubject) and hasattr(other.reward(name), "engine"):
                found[template] = subject
        return found

    def _sampled(self, context: Context, pairs: Sequence[Pair]) -> list[Rollout]:
        """Answers of the policy to the pairs' prompts."""
        if self.policy is None:
            return []
        asked = {p.prompt: Prompt(p.prompt, p.id, p.meta, p.place) for p in pairs}
        prompts = list(asked.values())[: self.prompts]
        engine = context.policy(self.policy)
        ids = [render_prompt(engine.model.tokenizer, p, 1024) for p in prompts]
        generator = torch.Generator().manual_seed(derive(context.recipe.seed, f"{self.name}.policy"))
        groups = Sampler(engine, drawing(self)).sample(ids, generator, progress=context.progress)
        return to_rollouts(prompts, groups, engine)

    def _other(self, context: Context) -> str | None:
        """The first of `against` that scores answers."""
        return next((name for name in self.against if name not in context.recipe.judges), None)

    def _curve(
        self,
        context: Context,
        subject: Subject,
        pairs: Sequence[Pair],
        sampled: list[Rollout],
        of_world: bool,
    ) -> dict[str, Any] | None:
        """The audited reward picks, the reference judges; None without answers or without a reference."""
        if isinstance(subject, JudgedSubject):
            return None
        name = self.reference or ("gold" if of_world else self._other(context))
        answers, gold = (sampled, None) if sampled else _several(pairs)
        if not answers or name == subject.name or (name is None and gold is None):
            return None
        if gold is None or self.reference:
            if name is None:
                raise UserError(
                    "the audit's best-of-n curve has no reference.",
                    "Set `reference` to an independent reward.",
                )
            gold = [float("nan") if s.value is None else s.value for s in context.reward(name).score(answers)]
        columns = {"proxy": list(subject.values(answers)), "reference": gold}
        per_prompt = np.bincount([r.group for r in answers])
        size = int(per_prompt[per_prompt > 0].min())
        sizes = [2**k for k in range(size.bit_length()) if 2**k <= size]
        seed = derive(context.recipe.seed, self.name)
        return best_of_n(columns, [r.group for r in answers], proxy="proxy", sizes=sizes, seed=seed)


class _Counted:
    """A reward or judge whose calls move the progress bar."""

    def __init__(self, inner: Any, task: Task) -> None:
        self.inner, self.task, self.name = inner, task, str(inner.name)

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Score and count."""
        scores: list[Score] = self.inner.score(rollouts)
        self.task.advance(len(rollouts))
        return scores

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        """Compare and count."""
        found: list[Comparison] = self.inner.compare(pairs)
        self.task.advance(len(pairs))
        return found


def _several(pairs: Sequence[Pair]) -> tuple[list[Rollout], list[float] | None]:
    """The distinct answers of prompts that have four or more, and their gold values where all are known."""
    found: dict[Any, dict[str, tuple[Rollout, Any]]] = {}
    for pair, better, worse in zip(pairs, (r := rollouts_of(pairs))[0::2], r[1::2]):
        for side, rollout in (("chosen", better), ("rejected", worse)):
            found.setdefault(pair.prompt, {})[rollout.text] = (rollout, pair.meta.get(f"gold_{side}"))
    groups = [list(g.values()) for g in found.values() if len(g) >= 4]
    answers = [replace(r, group=i) for i, group in enumerate(groups) for r, _ in group]
    values = [value for group in groups for _, value in group]
    return answers, None if any(v is None for v in values) else [float(v) for v in values]
