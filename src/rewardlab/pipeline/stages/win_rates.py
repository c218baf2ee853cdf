"""Raw and length-controlled win rates of annotated systems, and what the judge pays for length."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import stats

from rewardlab.audit.length_preference import length_preference, matched_win_rate
from rewardlab.audit.win_rates import Preferences, WinRate, estimated_difficulty, published_win_rate, win_rate
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.data.messages import BadRowError
from rewardlab.data.rows import Fields
from rewardlab.pipeline.annotations import Table, read_numbers, read_rows, shown, table, text_of
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

GLM = ("glm_instruction_difficulty", "glm_intercept")
"""Leaderboard columns with the coefficients of the published fits, where it has them."""


class DifficultySettings(Settings):
    """A CSV file with a difficulty per instruction."""

    source: str
    key: str = "instruction_id"
    column: str = "instruction_difficulty_estimated"


class LeaderboardSettings(Settings):
    """A CSV file with published win rates in percent, to compare with."""

    source: str
    key: str = "model"
    raw: str = "win_rate"
    length_controlled: str = "length_controlled_winrate"


class WinRatesStage(Stage):
    """Each system of the data against its baseline, raw and with the length difference regressed out."""

    kind: Literal["win_rates"] = "win_rates"
    data: Sources
    """Rows with `instruction_id`, `generator_2` (the system), `output_1` (the baseline's answer),
    `output_2` and `preference` (1: the baseline, 2: the system, between: probabilities, 0 or 1.5: tie)."""
    difficulty: DifficultySettings | None = None
    """Without it the difficulties are estimated from the data."""
    leaderboard: LeaderboardSettings | None = None
    variants: list[list[str]] = []
    """Sets of systems that are one model under different length instructions: how far do they spread?"""
    ridge: float = 1.0
    resamples: int = 500

    def run(self, context: Context) -> Outcome:
        """Fit and compare."""
        seed = derive(context.recipe.seed, self.name)
        systems = self._read(context)
        if self.difficulty is None:
            difficulty = estimated_difficulty(systems)
        else:
            d = self.difficulty
            found = read_numbers(context, d.source, f"{self.name}.difficulty", d.key, [d.column])
            difficulty = {_whole(k, d.source): v[d.column] for k, v in found.items() if d.column in v}
        rates: dict[str, WinRate] = {}
        with context.progress.task(f"{self.name}: systems", len(systems)) as task:
            for name, one in systems.items():
                rates[name] = win_rate(one, difficulty, seed=seed, ridge=self.ridge, resamples=self.resamples)
                task.advance()
        published = self._published(context)
        matched = {name: matched_win_rate(one, seed=seed) for name, one in systems.items()}
        tables = [self._systems(rates, matched, published), *self._agreement(rates, published, difficulty)]
        tables += self._variants(rates)
        tables += self._judge(length_preference(systems, difficulty, seed=seed))
        return {"tables": tables, "final": {"systems": float(len(systems))}}

    def _read(self, context: Context) -> dict[str, Preferences]:
        rows = []
        for number, data in enumerate(self.data):
            rows += read_rows(context, data, f"{self.name}.data.{number}", _annotation)
        by_system: dict[str, list[tuple[int, float, int, int]]] = defaultdict(list)
        for system, row in rows:
            by_system[system].append(row)
        made = {}
        for system, found in by_system.items():
            i, p, length, baseline = (np.array(column) for column in zip(*found))
            made[system] = Preferences(i, p.astype(float), length.astype(float), baseline.astype(float))
        return made

    def _published(self, context: Context) -> dict[str, dict[str, float]]:
        if (board := self.leaderboard) is None:
            return {}
        columns = [board.raw, board.length_controlled]
        use = f"{self.name}.leaderboard"
        try:
            return read_numbers(context, board.source, use, board.key, [*columns, *GLM])
        except UserError:  # older leaderboards have no coefficients
            return read_numbers(context, board.source, use, board.key, columns)

    def _systems(self, rates: dict[str, WinRate], matched: dict[str, Any], published: Any) -> Table:
        rows = []
        for name, found in sorted(rates.items(), key=lambda item: -item[1].length_controlled.estimate):
            row = {
                "system": name,
                "n": found.raw.n,
                "length": round(found.length),
                "raw": found.raw.as_dict(),
                "lc": found.length_controlled.as_dict(),
                "matched": matched[name] if matched[name]["n"] >= 30 else None,
                "matched_n": matched[name]["n"],
                "phi": found.coefficients[0],
            }
            if self.leaderboard is not None:
                known = published.get(name, {})
                row["official_raw"] = known.get(self.leaderboard.raw)
                row["official_lc"] = known.get(self.leaderboard.length_controlled)
            rows.append(row)
        columns = {"system": "system", "n": "n", "length": "mean length", "raw": "win rate, %"}
        if self.leaderboard is not None:
            columns["official_raw"] = "published"
        columns["lc"] = "length-controlled, %"
        if self.leaderboard is not None:
            columns["official_lc"] = "published LC"
        columns |= {"matched": "at matched length, %", "matched_n": "n matched", "phi": "length coefficient"}
        return table(
            self.name,
            f"Win rates against the baseline ({self.name})",
            columns,
            rows,
            "Matched: answers within 10% of the baseline's length, where there are at least 30. "
            "Length coefficient: of tanh(length difference / sd) in the logit.",
        )

    def _agreement(
        self, rates: dict[str, WinRate], published: Any, difficulty: dict[int, float]
    ) -> list[Table]:
        if (board := self.leaderboard) is None:
            return []
        rows = []
        for label, column, ours in (
            ("raw win rate", board.raw, {k: v.raw.estimate for k, v in rates.items()}),
            (
                "length-controlled",
                board.length_controlled,
                {k: v.length_controlled.estimate for k, v in rates.items()},
            ),
        ):
            names = [n for n in ours if column in published.get(n, {})]
            a, b = np.array([ours[n] for n in names]), np.array([published[n][column] for n in names])
            if len(names):
                worst = int(np.abs(a - b).argmax())
                rank = float(stats.spearmanr(a, b).statistic) if len(names) > 2 else None
                rows.append(_compared(label, a - b) | {"rank": rank, "worst": names[worst]})
        full = {k: v for k, v in published.items() if all(c in v for c in (*GLM, board.length_controlled))}
        if full:
            gap = [
                published_win_rate(difficulty, v[GLM[0]], v[GLM[1]]) - v[board.length_controlled]
                for v in full.values()
            ]
            worst = list(full)[int(np.abs(gap).argmax())]
            rows.append(_compared("published coefficients", np.array(gap)) | {"rank": None, "worst": worst})
        columns = {
            "quantity": "quantity",
            "systems": "systems",
            "mean": "mean absolute difference, points",
            "median": "median",
            "largest": "largest",
            "worst": "of",
            "rank": "Spearman",
        }
        finding = " and ".join(
            f"{row['mean']:.2f} points for the {row['quantity']}" for row in rows if row["rank"] is not None
        )
        return [
            table(
                self.name,
                f"Agreement with the published numbers ({self.name})",
                columns,
                rows,
                finding=f"{self.name}: mean distance to the published numbers: {finding}."
                if finding
                else None,
            )
        ]

    def _variants(self, rates: dict[str, WinRate]) -> list[Table]:
        rows = []
        for names in self.variants:
            known = [n for n in names if n in rates]
            if len(known) < 2:
                raise UserError(
                    f"{self.name}.variants: fewer than two of {', '.join(names)} are in the data.",
                    f"Systems: {', '.join(rates)}.",
                )
            for label, value in (("raw", "raw"), ("length-controlled", "length_controlled")):
                at = [getattr(rates[n], value).estimate for n in known]
                rows.append({"variants": ", ".join(known), "rate": label, "spread": max(at) - min(at)})
                rows[-1]["relative"] = 100 * rows[-1]["spread"] * len(at) / sum(at)
        columns = {
            "variants": "one model, several length instructions",
            "rate": "win rate",
            "spread": "highest - lowest, points",
            "relative": "of their mean, %",
        }
        return (
            [table(self.name, f"What a length instruction buys ({self.name})", columns, rows)] if rows else []
        )

    def _judge(self, found: dict[str, Any]) -> list[Table]:
        longer = found["prefers_longer"]
        rows = [
            {"what": "probability given to the longer answer, %", "value": found["prefers_longer"]},
            {
                "what": "odds of winning per doubling of length, same system",
                "value": found["odds_per_doubling"],
            },
            {"what": "coefficient of tanh(length difference / sd)", "value": found["length_coefficient"]},
        ]
        facts = table(
            self.name,
            f"The judge and length ({self.name})",
            {"what": "measure", "value": "estimate"},
            rows,
            "Intervals cluster by instruction. The last two hold system and difficulty fixed; what remains "
            "may still be quality that comes with length within one system.",
            finding=f"{self.name}: the judge gives the longer answer {shown(longer)}% of its "
            "preference; one doubling of length multiplies the odds of winning by "
            f"{shown(found['odds_per_doubling'])} with the system held fixed.",
        )
        columns = {
            "band": "answer's length over the baseline's",
            "n": "n",
            "observed": "win rate, %",
            "expected": "expected from system and difficulty, %",
            "excess": "excess, points",
        }
        bands = [{**b, "n": b["observed"]["n"]} for b in found["bands"]]
        return [facts, table(self.name, f"Win rate by relative length ({self.name})", columns, bands)]


def _annotation(fields: Fields, place: str) -> tuple[str, tuple[int, float, int, int]]:
    system = text_of(fields, "generator_2")
    instruction = fields.need("instruction_id")
    if not isinstance(instruction, int):
        raise BadRowError(f"instruction_id is not a whole number: {instruction!r}")
    lengths = len(text_of(fields, "output_2")), len(text_of(fields, "output_1"))
    return system, (instruction, preference(fields), *lengths)


def preference(fields: Fields) -> float:
    """Probability that `output_2` is better, from AlpacaEval's `preference`."""
    fields.need("preference")
    value = fields.number("preference", None) or 1.5  # a tie is written as 0 or 1.5
    if not 1 <= value <= 2:
        raise BadRowError(f"preference is not between 1 and 2: {value}")
    return value - 1


def _compared(label: str, gap: Any) -> dict[str, Any]:
    size = np.abs(gap)
    found = {"mean": float(size.mean()), "median": float(np.median(size)), "largest": float(size.max())}
    return {"quantity": label, "systems": len(size), **found}


def _whole(text: str, source: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{source}: the key {text!r} is not a whole number.", "Repair the row.") from error
