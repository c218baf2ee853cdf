"""Judges with verdicts in both presentation orders: position bias, accuracy, agreement."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

from rewardlab.audit.judges import Verdict, Winner, judge_agreement, judge_card
from rewardlab.core.statistics import holm
from rewardlab.data.messages import BadRowError
from rewardlab.data.rows import Fields
from rewardlab.pipeline.annotations import read_rows, shown, table, text_of
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context

CARD = {
    "judge": "judge",
    "strategy": "strategy",
    "pairs": "pairs",
    "unread": "unread",
    "accuracy_first_order": "accuracy, original order",
    "accuracy_swapped": "accuracy, swapped",
    "accuracy_consistent": "right in both",
    "consistency": "same winner in both",
    "first_position": "verdicts for the first shown",
    "position_p": "p of no position bias, Holm",
}


class JudgeAuditStage(Stage):
    """Every judge and prompting strategy of a file of verdicts."""

    kind: Literal["judge_audit"] = "judge_audit"
    data: Sources
    """Rows with `pair_id`, `judge`, `strategy`, `label` (1 or 2, the better answer), and `winner`,
    `winner_swapped` in the same naming, the second from showing answer 2 first; null: unreadable."""

    def run(self, context: Context) -> Outcome:
        """Cards per judge and strategy, then agreement between judges of one strategy."""
        seed = derive(context.recipe.seed, self.name)
        cells: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
        for number, data in enumerate(self.data):
            for judge, strategy, verdict in read_rows(context, data, f"{self.name}.data.{number}", _verdict):
                cells[strategy, judge].append(verdict)
        cards = [{"judge": j, "strategy": s, **judge_card(v)} for (s, j), v in sorted(cells.items())]
        for card, p in zip(cards, holm([c["position_p"] for c in cards])):
            card["position_p"] = p
        together: dict[str, dict[str, list[Verdict]]] = defaultdict(dict)
        for (strategy, judge), verdicts in sorted(cells.items()):
            together[strategy][judge] = verdicts
        shared = {s: judge_agreement(by, seed=seed) for s, by in together.items() if len(by) > 1}
        alphas: list[dict[str, Any]] = [
            {"strategy": s, "judges": len(together[s]), "alpha": found["alpha"]}
            for s, found in shared.items()
        ]
        pairs = [{"strategy": s, **row} for s, found in shared.items() for row in found["pairs"]]
        swayed = [c for c in cards if c["position_p"] < 0.05]
        worst = max(cards, key=lambda c: abs(c["first_position"]["estimate"] - 0.5))
        tables = [
            table(
                self.name,
                f"Judges and position ({self.name})",
                CARD,
                cards,
                "Every pair is shown in both orders: without position bias half the verdicts go to the "
                "answer shown first, whatever the labels. p: sign test on the pairs whose verdict flips.",
                finding=f"{len(swayed)} of {len(cards)} judges and strategies prefer a position (Holm's p < "
                f"0.05); {worst['judge']} with {worst['strategy']} most of all: the answer shown first gets "
                f"{shown(worst['first_position'])} of its verdicts.",
            ),
            table(
                self.name,
                f"Agreement between judges ({self.name})",
                {"strategy": "strategy", "judges": "judges", "alpha": "Krippendorff's alpha"},
                alphas,
                "A verdict that flips with the order counts as a tie.",
            ),
            table(
                self.name,
                f"Agreement of two judges ({self.name})",
                {"strategy": "strategy", "first": "judge", "second": "and", "agreement": "same verdict"},
                pairs,
            ),
        ]
        return {"tables": [t for t in tables if t["rows"]], "final": {"cards": float(len(cards))}}


def _verdict(fields: Fields, place: str) -> tuple[str, str, Verdict]:
    pair, judge, strategy = (text_of(fields, name) for name in ("pair_id", "judge", "strategy"))
    label = _winner(fields, "label")
    if label is None:
        raise BadRowError("label is null")
    verdict = Verdict(pair, _winner(fields, "winner"), _winner(fields, "winner_swapped"), label)
    return judge, strategy, verdict


def _winner(fields: Fields, name: str) -> Winner:
    value = fields.get(name)
    if value is None:
        return None
    if str(value) not in ("1", "2"):
        raise BadRowError(f"{name} is none of 1, 2, null: {value!r}")
    return int(value)
