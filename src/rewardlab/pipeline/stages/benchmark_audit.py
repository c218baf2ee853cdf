"""Rewards, and scores that a data set stores, on preference benchmarks with styles, ties and annotators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewardlab.audit.annotators import fleiss_kappa, krippendorff_alpha
from rewardlab.audit.benchmarks import ordered, style_matrix, three_way_accuracy
from rewardlab.core.errors import UserError
from rewardlab.core.statistics import bounded_mean_interval, wilson
from rewardlab.core.types import Messages, Rollout
from rewardlab.data.messages import BadRowError, prompt_messages
from rewardlab.data.rows import Fields, identity
from rewardlab.pipeline import rows as load
from rewardlab.pipeline.annotations import Table, asked, read_rows, rollout, shown, table, text_of
from rewardlab.pipeline.scoring import score_values
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage
from rewardlab.pipeline.stages.frozen_head import answers
from rewardlab.rewards.linear_head import Floats, grouped_folds

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

LABELS = {"a": 1.0, "b": -1.0, "tie": 0.0}
Part = Literal["pairs", "style_matrix", "ties", "stored_scores", "annotators"]


class BenchmarkAuditStage(Stage):
    """One benchmark, measured in the way its rows allow."""

    kind: Literal["benchmark_audit"] = "benchmark_audit"
    form: Part
    """`pairs`: plain preferences. `style_matrix`: `chosen` and `rejected` are lists of the same answer in
    rising style. `ties`: `response_a`, `response_b`, `label` a, b or tie. `stored_scores`: the same with
    `judges`, name -> `score_a`, `score_b`. `annotators`: a list of votes in `annotators`."""
    data: Sources
    rewards: list[str] = []
    """Rewards to measure; `stored_scores` and `annotators` need none."""
    folds: int = 5
    """The tie threshold of each fold is chosen on the others."""

    def references(self) -> list[tuple[str, str]]:
        """The rewards."""
        return [("rewards", name) for name in self.rewards]

    def run(self, context: Context) -> Outcome:
        """Measure."""
        if not self.rewards and self.form in ("pairs", "style_matrix", "ties"):
            raise UserError(f"{self.name}: no `rewards` to measure.", "Name at least one.")
        made = {
            "pairs": self._pairs,
            "style_matrix": self._styles,
            "ties": self._ties,
            "stored_scores": self._stored,
            "annotators": self._annotators,
        }[self.form](context, derive(context.recipe.seed, self.name))
        return {"tables": made, "final": {"rows": float(made[0]["rows"][0]["n"])}}

    def _pairs(self, context: Context, seed: int) -> list[Table]:
        pairs = []
        for number, data in enumerate(self.data):
            use = f"{self.name}.data.{number}"
            loaded = load.load_pairs(context, data, use)
            context.run.add_data(use, loaded.facts())
            pairs += [p for p in loaded.rows if p.label != 0.5]
        chosen, rejected = answers(pairs)
        lines = []
        for name in self.rewards:
            values = self._score(context, name, [*chosen, *rejected])
            right = ordered(values[: len(pairs)], values[len(pairs) :])
            right = right[np.isfinite(right)]
            lines.append(
                {"reward": name, "n": right.size, "accuracy": bounded_mean_interval(right).as_dict()}
            )
        columns = {"reward": "reward", "n": "n", "accuracy": "accuracy"}
        return [
            table(
                self.name,
                f"Accuracy ({self.name})",
                columns,
                lines,
                "Equal scores count half.",
                finding=_each(self.name, "accuracy", lines, "accuracy"),
            )
        ]

    def _styles(self, context: Context, seed: int) -> list[Table]:
        rows = self._read(context, _style_row)
        size = {(len(c), len(r)) for _, c, r, _ in rows}
        if len(size) != 1 or len(set(next(iter(size)))) != 1:
            raise UserError(f"{self.name}: rows with different numbers of styles.", "Give all rows the same.")
        styles = len(rows[0][1])
        names = rows[0][3] or [str(i + 1) for i in range(styles)]
        summary, matrices = [], []
        for name in self.rewards:
            said = [rollout(prompt, text) for prompt, c, r, _ in rows for text in (*c, *r)]
            values = self._score(context, name, said).reshape(len(rows), 2, styles)
            found = style_matrix(values[:, 0], values[:, 1])
            kept = len(rows) - found["left_out"]
            summary.append(
                {"reward": name, "n": kept, **{k: found[k] for k in ("easy", "normal", "hard", "all")}}
            )
            for style, row in zip(names, found["matrix"]):
                cells = {f"r{j}": cell for j, cell in enumerate(row)}
                matrices.append({"reward": name, "style": style, **cells})
        columns = {
            "reward": "reward",
            "n": "n",
            "easy": "easy",
            "normal": "normal",
            "hard": "hard",
            "all": "mean",
        }
        matrix = {"reward": "reward", "style": "right answer is"}
        matrix |= {f"r{j}": f"wrong one {style}" for j, style in enumerate(names)}
        note = (
            "Easy: the right answer has the richer style; hard: the wrong one has. Equal scores count half."
        )
        hard = _each(self.name, "accuracy where the wrong answer has the richer style", summary, "hard")
        return [
            table(self.name, f"Accuracy by style ({self.name})", columns, summary, note, finding=hard),
            table(self.name, f"Style of the right against the wrong answer ({self.name})", matrix, matrices),
        ]

    def _ties(self, context: Context, seed: int) -> list[Table]:
        rows = self._read(context, _comparison)
        label = np.array([LABELS[y] for *_, y in rows])
        folds = grouped_folds([identity(prompt) for prompt, *_ in rows], self.folds, seed=seed)
        lines = []
        for name in self.rewards:
            said = [rollout(prompt, text) for prompt, a, b, _ in rows for text in (a, b)]
            values = self._score(context, name, said).reshape(-1, 2)
            use = np.isfinite(values).all(1)
            difference = (values[:, 0] - values[:, 1])[use]
            found = three_way_accuracy(difference, label[use], folds[use])
            lines.append({"reward": name, "n": int(use.sum()), **found})
        columns = {"reward": "reward", "n": "n", "ties": "ties", "without_ties": "accuracy, ties left out"}
        columns |= {
            "with_ties": "accuracy of three",
            "always_most": "always the commonest",
            "threshold": "tie threshold",
        }
        note = (
            "A tie is said where scores differ by at most a threshold, chosen on the other folds of prompts."
        )
        return [
            table(
                self.name,
                f"Comparisons with ties ({self.name})",
                columns,
                lines,
                note,
                finding=_each(self.name, "accuracy of the three verdicts", lines, "with_ties"),
            )
        ]

    def _stored(self, context: Context, seed: int) -> list[Table]:
        rows = self._read(context, _stored_row)
        by: dict[str, list[tuple[float, float, str | None, str]]] = defaultdict(list)
        for label, judges in rows:
            for name, told in judges.items():
                if "score_a" in told and "score_b" in told and label != "tie":
                    by[name].append((told["score_a"], told["score_b"], told.get("decision"), label))
        if not by:
            raise UserError(f"{self.name}: no row has judges with score_a and score_b.", "Check the data.")
        lines: list[dict[str, Any]] = []
        for name, found in by.items():
            a, b = (np.array([float(row[i]) for row in found]) for i in (0, 1))
            first = np.array([row[3] == "a" for row in found])
            right = ordered(np.where(first, a, b), np.where(first, b, a))
            said = [(row[2], row[3]) for row in found if row[2] is not None]
            stored = sum(decision == ("A>B" if label == "a" else "B>A") for decision, label in said)
            lines.append(
                {
                    "scorer": name,
                    "n": len(found),
                    "accuracy": bounded_mean_interval(right).as_dict(),
                    "ties": int((a == b).sum()),
                    "percent": f"{100 * (right == 1).mean():.2f}",
                    "stored": f"{100 * stored / len(said):.2f}" if said else None,
                }
            )
        lines.sort(key=lambda line: -line["accuracy"]["estimate"])
        columns = {"scorer": "scorer", "n": "n", "accuracy": "accuracy", "ties": "equal scores"}
        columns |= {"percent": "strictly right, %", "stored": "by the stored decisions, %"}
        note = (
            "From the scores in the data. Equal scores count half in the accuracy and as wrong in the strict "
            "share, which the decisions stored beside the scores must reproduce."
        )
        agree = sum(line["percent"] == line["stored"] for line in lines)
        finding = (
            f"{self.name}: the strict accuracy computed from the scores equals that of the stored decisions "
            f"to two decimals for {agree} of {len(lines)} scorers."
        )
        title = f"Scores that the data stores ({self.name})"
        return [table(self.name, title, columns, lines, note, finding=finding)]

    def _annotators(self, context: Context, seed: int) -> list[Table]:
        rows = self._read(context, _votes)
        votes = [list(v) for _, v in rows]
        unanimous = sum(len(set(v)) == 1 for v in votes)
        lines: list[dict[str, Any]] = [
            {"measure": "Krippendorff's alpha", "value": krippendorff_alpha(votes, seed=seed).as_dict()},
            {"measure": "all annotators alike", "value": wilson(unanimous, len(votes)).as_dict()},
        ]
        if len({len(v) for v in votes}) == 1:
            lines.insert(1, {"measure": "Fleiss' kappa", "value": fleiss_kappa(votes, seed=seed).as_dict()})
        for number in range(max(map(len, votes))):
            # Each against the majority of the others: what a perfect imitator of one person would reach.
            at = [(v[number], majority([*v[:number], *v[number + 1 :]])) for v in votes if len(v) > number]
            clear = [(own, others) for own, others in at if others is not None]
            right = sum(own == others for own, others in clear)
            value = wilson(right, len(clear)).as_dict()
            lines.append(
                {"measure": f"annotator {number + 1} against an agreement of the others", "value": value}
            )
        for line in lines:
            line["n"] = line["value"]["n"]
        columns = {"measure": "measure", "n": "n", "value": "value"}
        alpha = f"{self.name}: annotators agree with Krippendorff's alpha {shown(lines[0]['value'])}."
        return [table(self.name, f"Annotators ({self.name})", columns, lines, finding=alpha)]

    def _read(self, context: Context, make: Any) -> list[Any]:
        found: list[Any] = []
        for number, data in enumerate(self.data):
            found += read_rows(context, data, f"{self.name}.data.{number}", make)
        return found

    def _score(self, context: Context, name: str, rollouts: Sequence[Rollout]) -> Floats:
        return score_values(context, context.reward(name), rollouts, f"{self.name}: {name}")


def _each(name: str, what: str, lines: Sequence[Mapping[str, Any]], key: str) -> str:
    """The finding that every reward's number makes."""
    return f"{name}: {what}: " + "; ".join(f"{line['reward']} {shown(line[key])}" for line in lines) + "."


def majority(votes: Sequence[str]) -> str | None:
    """The vote that more than half gave, or None."""
    return next((v for v in dict.fromkeys(votes) if 2 * list(votes).count(v) > len(votes)), None)


def _style_row(fields: Fields, place: str) -> tuple[Messages, list[str], list[str], list[str]]:
    chosen, rejected = fields.need("chosen"), fields.need("rejected")
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value) or not value:
            raise BadRowError(f"{name} is not a list of texts")
    meta = fields.get("meta")
    styles = meta.get("styles") if isinstance(meta, Mapping) else None
    return asked(text_of(fields, "prompt")), chosen, rejected, list(styles or [])


def _comparison(fields: Fields, place: str) -> tuple[Messages, str, str, str]:
    label = fields.need("label")
    if label not in LABELS:
        raise BadRowError(f"label is none of a, b, tie: {label!r}")
    prompt = prompt_messages(fields.need("prompt"), "prompt")
    return prompt, text_of(fields, "response_a"), text_of(fields, "response_b"), label


def _stored_row(fields: Fields, place: str) -> tuple[str, Mapping[str, Any]]:
    label, judges = fields.need("label"), fields.need("judges")
    if label not in LABELS or not isinstance(judges, Mapping):
        raise BadRowError("a label a, b or tie and an object `judges` are needed")
    return label, judges


def _votes(fields: Fields, place: str) -> tuple[str | None, list[str]]:
    votes = fields.need("annotators")
    if not isinstance(votes, list) or not votes or any(v not in LABELS for v in votes):
        raise BadRowError("annotators is not a list of a, b or tie")
    return fields.get("label"), votes
