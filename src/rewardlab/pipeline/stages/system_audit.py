"""Rewards beside a judge on the answers of many systems: each preference, and the ranking of systems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewardlab.audit.systems import between_systems, preference_agreement, rank_agreement
from rewardlab.core.errors import UserError
from rewardlab.core.statistics import mean_interval
from rewardlab.core.types import Messages
from rewardlab.data.messages import prompt_messages
from rewardlab.data.rows import Fields
from rewardlab.pipeline.annotations import (
    Table,
    is_held_out,
    place_of,
    read_numbers,
    read_rows,
    shown,
    table,
    text_of,
)
from rewardlab.pipeline.annotations import rollout as rollout_of
from rewardlab.pipeline.scoring import score_values
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage, StageData
from rewardlab.pipeline.stages.win_rates import LeaderboardSettings, preference

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

METHODS: tuple[Literal["spearman", "kendall"], ...] = ("spearman", "kendall")


@dataclass(frozen=True)
class Answer:
    """One system's answer to an instruction; the judge's probability for it where it was judged."""

    system: str
    instruction: int
    prompt: Messages
    text: str
    baseline: str
    p: float | None


class SystemAuditStage(Stage):
    """Does a reward prefer what the judge prefers, beyond length, and rank systems as a leaderboard does?"""

    kind: Literal["system_audit"] = "system_audit"
    rewards: list[str]
    data: Sources
    """Annotated answers, as `win_rates` reads them. With `heldout_fraction` and `split: heldout` only the
    prompts are used that a stage with the same setting did not train on."""
    systems: list[str] = []
    """Use only these systems' preferences, such as those a head was not trained on; empty: all."""
    more: StageData | None = None
    """Answers without annotations (`instruction_id`, `model`, `output`), for the ranking only."""
    leaderboard: LeaderboardSettings | None = None
    most_prompts: int | None = None
    """Use at most this many prompts, drawn by a hash of the prompt."""

    def references(self) -> list[tuple[str, str]]:
        """The rewards."""
        return [("rewards", name) for name in self.rewards]

    def run(self, context: Context) -> Outcome:
        """Score every answer and its baseline once per reward."""
        seed = derive(context.recipe.seed, self.name)
        judged = self._read(context)
        more = self._more(context, judged)
        board = self._leaderboard(context)
        single, per_system, between, ranking = [], [], [], []
        single.append({"reward": "always the baseline", **_agreement(judged, -np.ones(len(judged)), seed)})
        ranks: dict[str, dict[str, Any]] = defaultdict(dict)
        for name in self.rewards:
            everyone = [*judged, *more]
            margin = self._margins(context, name, everyone)
            scored = [i for i, a in enumerate(judged) if a.p is not None and np.isfinite(margin[i])]
            single.append({"reward": name, **_agreement([judged[i] for i in scored], margin[scored], seed)})
            between.append({"reward": name, **_between([judged[i] for i in scored], margin[scored], seed)})
            for system in dict.fromkeys(a.system for a in judged):
                at = [i for i in scored if judged[i].system == system]
                found = _agreement([judged[i] for i in at], margin[at], seed)
                per_system.append({"system": system, "reward": name, **found})
            wins: dict[str, list[float]] = defaultdict(list)
            for answer, value in zip(everyone, margin):
                if np.isfinite(value):
                    wins[answer.system].append((1 + float(np.sign(value))) / 2)
            for system, won in wins.items():
                ranks[system][name] = mean_interval(100 * np.array(won), seed=seed).as_dict()
            values = {system: float(np.mean(won)) for system, won in wins.items()}
            annotated = {a.system for a in judged}
            for which, chosen in (
                ("all systems", values),
                ("annotated", {k: v for k, v in values.items() if k in annotated}),
                ("not annotated", {k: v for k, v in values.items() if k not in annotated}),
            ):
                if board and len(chosen) >= 3 and (which == "all systems" or more):
                    ranking.append({"reward": name, "which": which, **_ranks(chosen, board)})
        return {
            "tables": self._tables(single, between, per_system, ranking, ranks, board),
            "final": {"preferences": float(len(judged)), "systems": float(len(ranks))},
        }

    def _read(self, context: Context) -> list[Answer]:
        found = []
        for number, data in enumerate(self.data):
            answers = read_rows(context, data, f"{self.name}.data.{number}", _annotated)
            for a in answers:
                aside = is_held_out(a.prompt, data.heldout_fraction, data.seed)
                if aside == (data.split == "heldout") or not data.heldout_fraction:
                    found.append(a)
        chosen = [a for a in found if not self.systems or a.system in self.systems]
        missing = sorted(set(self.systems) - {a.system for a in found})
        if missing or not chosen:
            there = ", ".join(sorted({a.system for a in found}))
            raise UserError(
                f"{self.name}: no answers by {', '.join(missing) or 'any'}.", f"Systems: {there}."
            )
        if self.most_prompts is None:
            return chosen
        order = sorted({a.prompt for a in chosen}, key=lambda p: place_of(p, 0))
        kept = set(order[: self.most_prompts])
        return [a for a in chosen if a.prompt in kept]

    def _more(self, context: Context, judged: Sequence[Answer]) -> list[Answer]:
        """Other systems' answers to the same instructions."""
        if self.more is None:
            return []
        known = {a.instruction: a for a in judged}
        rows = read_rows(context, self.more, f"{self.name}.more", _unannotated)
        return [
            Answer(system, i, known[i].prompt, text, known[i].baseline, None)
            for system, i, text in rows
            if i in known
        ]

    def _leaderboard(self, context: Context) -> dict[str, dict[str, float]]:
        if (board := self.leaderboard) is None:
            return {}
        columns = [board.raw, board.length_controlled]
        use = f"{self.name}.leaderboard"
        found = read_numbers(context, board.source, use, board.key, columns)
        return {
            kind: {name: values[column] for name, values in found.items() if column in values}
            for kind, column in zip(("raw", "lc"), columns)
        }

    def _margins(self, context: Context, name: str, answers: Sequence[Answer]) -> Any:
        """Reward of each answer minus that of its baseline, each baseline answer scored once."""
        reward = context.reward(name)
        baselines = list(dict.fromkeys((a.prompt, a.baseline) for a in answers))
        rollouts = [rollout_of(prompt, text) for prompt, text in baselines]
        rollouts += [rollout_of(a.prompt, a.text) for a in answers]
        values = score_values(context, reward, rollouts, f"{self.name}: {name}")
        base = dict(zip(baselines, values))
        return values[len(baselines) :] - np.array([base[(a.prompt, a.baseline)] for a in answers])

    def _tables(
        self, single: Any, between: Any, per_system: Any, ranking: Any, ranks: Any, board: Any
    ) -> list[Table]:
        columns = {
            "reward": "reward",
            "n": "n",
            "accuracy": "accuracy",
            "over_longer": "minus longer wins",
            "accuracy_balanced": "balanced over length",
            "accuracy_longer": "longer preferred",
            "accuracy_shorter": "shorter preferred",
            "beyond_length": "effect beyond length",
        }
        made = [
            table(
                self.name,
                f"Agreement with the judge ({self.name})",
                columns,
                single,
                "Intervals cluster by instruction. Balanced: the mean of the two columns after it; a reward "
                "that only reads length gets 0.5. Effect beyond length: of one sd of the reward difference "
                "on the logit of the judge's preference, given the length difference.",
                finding="With the effect of length balanced out, agreement with the judge is "
                + "; ".join(
                    f"{row['reward']} {shown(row['accuracy_balanced'])}"
                    for row in single
                    if row["reward"] in self.rewards
                )
                + " (length alone would have 0.5).",
            ),
            table(
                self.name,
                f"Two systems' answers to one instruction ({self.name})",
                {
                    "reward": "reward",
                    "pairs": "pairs of answers",
                    "concordance": "ordered as the judge does",
                    "longer_concordance": "longer wins",
                    "over_longer": "difference",
                },
                between,
                "Pairs whose probabilities against the baseline differ by at least 0.1. The baseline drops "
                "out, so recognising its style earns nothing here.",
            ),
            table(
                self.name,
                f"Agreement with the judge, system by system ({self.name})",
                {
                    "system": "system",
                    "reward": "reward",
                    "n": "n",
                    "accuracy": "accuracy",
                    "over_longer": "minus longer wins",
                },
                per_system,
            ),
        ]
        if board:
            columns = {
                "reward": "reward",
                "which": "systems",
                "n": "number",
                "raw_spearman": "Spearman, win rate",
            }
            columns |= {
                "raw_kendall": "Kendall, win rate",
                "lc_spearman": "Spearman, LC",
                "lc_kendall": "Kendall, LC",
            }
            made.append(
                table(
                    self.name,
                    f"Ranking of systems against the leaderboard ({self.name})",
                    columns,
                    ranking,
                    "A system's value is the share of instructions on which the reward prefers it to the "
                    "baseline's answer. Intervals are over systems.",
                    finding="Rank correlation with the length-controlled leaderboard, all systems: "
                    + "; ".join(
                        f"{row['reward']} {shown(row['lc_spearman'])}"
                        for row in ranking
                        if row["which"] == "all systems"
                    )
                    + ".",
                )
            )
        rows = [
            {"system": s, **v, "official": board.get("raw", {}).get(s), "lc": board.get("lc", {}).get(s)}
            for s, v in ranks.items()
        ]
        rows.sort(key=lambda r: -(r["lc"] if r["lc"] is not None else -1.0))
        columns = {"system": "system"} | ({"official": "published", "lc": "published LC"} if board else {})
        columns |= {name: name for name in self.rewards}
        made.append(
            table(self.name, f"Share of answers preferred to the baseline's, % ({self.name})", columns, rows)
        )
        return made


def _agreement(answers: Sequence[Answer], margin: Any, seed: int) -> dict[str, Any]:
    p = np.array([a.p for a in answers], dtype=float)
    longer = np.array([len(a.text) - len(a.baseline) for a in answers], dtype=float)
    instruction = np.array([a.instruction for a in answers], dtype=np.intp)
    found = preference_agreement(margin, p, longer, instruction, seed=seed)
    return {"n": len(answers), **found}


def _between(answers: Sequence[Answer], margin: Any, seed: int) -> dict[str, Any]:
    p = np.array([a.p for a in answers], dtype=float)
    length = np.array([len(a.text) for a in answers], dtype=float)
    return between_systems(margin, p, length, np.array([a.instruction for a in answers]), seed=seed)


def _ranks(values: Mapping[str, float], board: dict[str, dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for target in ("raw", "lc"):
        for method in METHODS:
            at = rank_agreement(values, board[target], method=method)
            found[f"{target}_{method}"] = at.as_dict()
            found["n"] = at.n
    return found


def _annotated(fields: Fields, place: str) -> Answer:
    prompt = prompt_messages(fields.need("prompt"), "prompt")  # as training stages read it
    text, baseline = text_of(fields, "output_2"), text_of(fields, "output_1")
    system, instruction = text_of(fields, "generator_2"), int(fields.need("instruction_id"))
    return Answer(system, instruction, prompt, text, baseline, preference(fields))


def _unannotated(fields: Fields, place: str) -> tuple[str, int, str]:
    return text_of(fields, "model"), int(fields.need("instruction_id")), text_of(fields, "output")
