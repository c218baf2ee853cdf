"""A linear head on frozen features, trained on preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewardlab.core.errors import UserError
from rewardlab.core.statistics import ratio_interval
from rewardlab.core.types import Pair, Rollout
from rewardlab.data.rows import identity
from rewardlab.pipeline import rows
from rewardlab.pipeline.annotations import place_of, rollout, shown, table
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage
from rewardlab.records.atomic import write_folder
from rewardlab.rewards.feature_cache import CachedFeatures
from rewardlab.rewards.frozen_features import FeatureSettings, build_features, resolved
from rewardlab.rewards.frozen_head import save_frozen_head
from rewardlab.rewards.linear_head import Floats, LinearHead, Loss, fit_head

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class FrozenHeadStage(Stage):
    """Fit on the training prompts; test on held-out prompts, also with the answers of other systems."""

    kind: Literal["frozen_head"] = "frozen_head"
    data: Sources
    """Preference pairs; `heldout_fraction` sets prompts aside for the test."""
    features: FeatureSettings = FeatureSettings()
    loss: Loss = "bradley_terry"
    l2: list[float] = [1e-2, 1e-1, 1.0, 10.0, 100.0]
    """Strengths tried by cross-validation grouped by prompt, on features of unit standard deviation."""
    folds: int = 5
    rank: int | None = None
    """Keep only this many leading directions of the feature differences."""
    system_column: str = "generator_2"
    """Column that names who wrote the answer, for `train_systems` and `test_systems`."""
    train_systems: list[str] = []
    """Train on these systems' answers only; empty: on all."""
    test_systems: list[str] = []
    """Other systems, whose answers to held-out prompts are a second test."""
    most_prompts: int | None = None
    """Use at most this many prompts of each part, drawn by a hash of the prompt."""
    cache: str | None = None
    """Folder where feature rows are kept between runs; left out: in the run's folder."""

    def run(self, context: Context) -> Outcome:
        """Compute features, choose the L2, fit, test, save."""
        seed = derive(context.recipe.seed, self.name)
        settings = resolved(self.features)
        if self.features.source == "auto" and settings.source == "ngrams":
            context.warnings.append(
                f"{self.name}: no packaged encoder is installed; hashed n-grams are used."
            )
        if settings.source == "causal":
            path = context.model_settings(settings.model or "base").path
            settings = settings.model_copy(update={"model": path})
        computed = build_features(settings, lambda _: context.policy(self.features.model or "base"))
        train, held_out = self._pairs(context)
        who = ", systems trained on" if self.train_systems else ""
        parts = {
            f"training prompts{who}": self._of(train, self.train_systems),
            f"held-out prompts{who}": self._of(held_out, self.train_systems),
            "held-out prompts, other systems": self._of(held_out, self.test_systems)
            if self.test_systems
            else [],
        }
        first = next(iter(parts.values()))
        if not first:
            raise UserError(
                f"{self.name}: no training pair has {self.system_column} among `train_systems`.",
                "Check the names and `system_column`.",
            )
        found = [pair for part in parts.values() for pair in part]
        cache = Path(self.cache) if self.cache else context.run.folder / "features"
        with context.progress.task(f"{self.name}: features", 2 * len(found)) as task:
            features = CachedFeatures(computed, cache, task.advance)
            matrices = {name: _features(features, part) for name, part in parts.items() if part}
        better, worse = next(iter(matrices.values()))
        p = np.array([pair.label for pair in first])
        groups = [identity(pair.prompt) for pair in first]
        head = fit_head(
            better, worse, p, groups, l2=self.l2, seed=seed, loss=self.loss, folds=self.folds, rank=self.rank
        )
        record = context.run.stage(self.name)
        facts = {
            "loss": self.loss,
            "rank": self.rank,
            "cache": self.cache,
            "pairs": len(first),
            "prompts": len(set(groups)),
        }
        write_folder(record.output, lambda f: save_frozen_head(f, head, settings, computed.identity, facts))
        lines = [
            {
                "part": name,
                "prompts": len({identity(q.prompt) for q in parts[name]}),
                **_accuracy(head, m, parts[name], seed),
            }
            for name, m in matrices.items()
        ]
        columns = {
            "part": "pairs",
            "n": "n",
            "prompts": "prompts",
            "accuracy": "accuracy",
            "longer": "longer wins",
        }
        kind = f"{settings.source}, {better.shape[1]} features, {self.loss}"
        fitted = table(
            self.name,
            f"Frozen head ({self.name}: {kind})",
            columns,
            lines,
            "Intervals cluster by prompt.",
            finding=f"{self.name} orders {lines[-1]['part']} as labelled at {shown(lines[-1]['accuracy'])}; "
            f"the longer answer is the better one at {shown(lines[-1]['longer'])}.",
        )
        tried = table(
            self.name,
            f"L2 by cross-validation grouped by prompt ({self.name})",
            {"l2": "L2", "loss": "held-out loss", "accuracy": "held-out accuracy", "chosen": "chosen"},
            [asdict(t) | {"chosen": "yes" if t.l2 == head.l2 else ""} for t in head.tried],
        )
        if head.l2 in (min(self.l2), max(self.l2)):
            context.warnings.append(f"{self.name}: the chosen L2, {head.l2:g}, is at the end of the grid.")
        return {"tables": [fitted, tried], "final": {"l2": head.l2, "pairs": float(len(first))}}

    def references(self) -> list[tuple[str, str]]:
        """The causal backbone."""
        return [("features.model", self.features.model or "base")] if self.features.source == "causal" else []

    def _pairs(self, context: Context) -> tuple[list[Pair], list[Pair]]:
        train, held_out = [], []
        for number, data in enumerate(self.data):
            use = f"{self.name}.data.{number}"
            loaded = rows.load_pairs(context, data, use)
            context.run.add_data(use, loaded.facts())
            train += [p for p in loaded.rows if p.label != 0.5]
            held_out += [p for p in loaded.held_out if p.label != 0.5]
        return train, held_out

    def _of(self, pairs: Sequence[Pair], systems: Sequence[str]) -> list[Pair]:
        """Pairs of these systems (of all, if none is named), on the first `most_prompts` prompts by hash."""
        chosen = [p for p in pairs if not systems or p.meta.get(self.system_column) in systems]
        if self.most_prompts is None:
            return chosen
        places = sorted({place_of(p.prompt, 0) for p in chosen})[: self.most_prompts]
        limit = places[-1] if places else 0.0
        return [p for p in chosen if place_of(p.prompt, 0) <= limit]


def answers(pairs: Sequence[Pair]) -> tuple[list[Rollout], list[Rollout]]:
    """The chosen and the rejected answers as rollouts."""

    def text(messages: Any) -> str:
        return "\n".join(m.content for m in messages if m.role == "assistant")

    chosen = [rollout(p.prompt, text(p.chosen), p.place) for p in pairs]
    return chosen, [rollout(p.prompt, text(p.rejected), p.place) for p in pairs]


def _features(features: CachedFeatures, pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    chosen, rejected = answers(pairs)
    return features(chosen), features(rejected)


def _accuracy(
    head: LinearHead, matrices: tuple[Floats, Floats], pairs: Sequence[Pair], seed: int
) -> dict[str, Any]:
    """Accuracy of the head and of "longer wins", with intervals over prompts."""
    chosen, rejected = answers(pairs)
    longer = np.array([len(a.text) - len(b.text) for a, b in zip(chosen, rejected)], dtype=float)
    _, cluster = np.unique([identity(p.prompt) for p in pairs], return_inverse=True)
    count = np.bincount(cluster)

    def share(margin: Floats) -> dict[str, Any]:
        right = np.bincount(cluster, (1 + np.sign(margin)) / 2)
        return {**ratio_interval(right, count, seed=seed).as_dict(), "n": len(pairs)}

    return {
        "n": len(pairs),
        "accuracy": share(head(matrices[0]) - head(matrices[1])),
        "longer": share(longer),
    }
