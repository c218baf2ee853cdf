"""The page of the filters study, made from its figures; no number on it is typed."""

from __future__ import annotations

from typing import Any

from rewardlab.core.statistics import Difference, holm, paired_difference, t_interval

Rows = list[dict[str, Any]]
HOW = ("naive", "cross-fitted")
UNSEEN = ("oracle", "none")
"""Arms that no user can have or that filter nothing."""


def cell(interval: Any, *, sign: bool = True) -> str:
    """estimate [low, high]."""
    form = "+.3f" if sign else ".3f"
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def values(rows: Rows, penalty: str, flip: float, field: str, arm: str) -> list[float]:
    """One figure per seed, in order of seed."""
    chosen = sorted(
        (r for r in rows if r["penalty"] == penalty and r["flip"] == flip), key=lambda r: r["seed"]
    )
    return [r[field][arm] for r in chosen]


def against(rows: Rows, penalty: str, flip: float, arm: str, other: str) -> Difference:
    """Paired difference of gold accuracy over seeds."""
    return paired_difference(
        values(rows, penalty, flip, "accuracy", arm), values(rows, penalty, flip, "accuracy", other)
    )


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Markdown lines."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)] + [""]


def page(found: dict[str, Any], digest: str) -> str:
    """The whole page."""
    s, rows = found["settings"], found["rows"]
    flips, penalties = s["flips"], s["penalties"]
    arms = list(rows[0]["accuracy"])
    lines = [
        "# Filters of preference pairs under flipped labels",
        "",
        f"Question: trained on {s['train']} pairs of which a share is turned round, does a reward model "
        "agree more with gold when a filter drops pairs first? And does it matter whether the filter's "
        "scorer has been trained on the pairs that it scores (naive) or not (cross-fitted)?",
        "",
        "World: `advice`, a labeller that sees gold without bias or noise, and flips. Learner: "
        "`benchmarks/hashed_pairs.py`, with a "
        f"{' and a '.join(f'{k} ({v:g})' for k, v in penalties.items())} penalty. Both penalties were "
        "picked by a look at gold accuracy in a pilot on one draw of the default world (seed 0, which is "
        f"not used here), before any filter ran, and are the same for every arm. Held-out: {s['test']} "
        f"pairs on the same topics. {len(s['seeds'])} seeds, each a world of its own with its own pairs; "
        f"95% t intervals over seeds, differences paired within a seed. Filters keep {s['fraction']:.0%}; "
        "small loss keeps the pairs whose loss is below log 2 (the scorer agrees with the label), "
        f"confident learning drops as many as it estimates to be flipped. {s['folds']} folds; ensembles of "
        f"{s['members']} bootstrap members. Oracle drops exactly the flipped pairs, which nobody can do: "
        "the mark to compare with.",
        "",
        f"Command: `python benchmarks/filters.py docs` ({found['cpu_seconds']} s of one core). Figures of "
        f"every seed: [filters.json](filters.json), sha256 `{digest}`.",
        "",
    ]
    for penalty in penalties:
        lines += [f"## {penalty.capitalize()} penalty: gold accuracy, difference from no filter", ""]
        body = [
            ["no filter (accuracy)"]
            + [cell(t_interval(values(rows, penalty, f, "accuracy", "none")), sign=False) for f in flips]
        ]
        body += [
            [arm, *(cell(against(rows, penalty, f, arm, "none").interval) for f in flips)]
            for arm in arms
            if arm != "none"
        ]
        lines += table(["filter", *(f"flips {f:g}" for f in flips)], body)
        lines += ["Share kept / share of flipped pairs among the kept (means over seeds):", ""]
        body = [
            [
                arm,
                *(
                    f"{mean(values(rows, penalty, f, 'kept', arm)):.2f} / "
                    f"{mean(values(rows, penalty, f, 'flipped_among_kept', arm)):.3f}"
                    for f in flips
                ),
            ]
            for arm in arms
        ]
        lines += table(["filter", *(f"flips {f:g}" for f in flips)], body)
    lines += ["## Cross-fitted minus naive, gold accuracy", ""]
    pairs = [a.removesuffix(", naive") for a in arms if a.endswith(", naive")]
    body = [
        [name, penalty]
        + [cell(against(rows, penalty, f, f"{name}, cross-fitted", f"{name}, naive").interval) for f in flips]
        for penalty in penalties
        for name in pairs
    ]
    lines += table(["filter", "penalty", *(f"flips {f:g}" for f in flips)], body)
    lines += ["## Flip rate as estimated by confident learning", ""]
    body = [
        [how, penalty]
        + [cell(t_interval(values(rows, penalty, f, "flip_estimate", how)), sign=False) for f in flips]
        for penalty in penalties
        for how in HOW
    ]
    lines += table(["scorer", "penalty", *(f"flips {f:g}" for f in flips)], body)
    lines += ["## Flywheel", ""]
    lines += [
        f"Refit and refilter (cross-fitted small loss) for up to {s['rounds']} rounds, until the paired "
        f"interval of accuracy on {s['validation']} held-out pairs with equally noisy labels is not above "
        "0. Rounds chosen, seed by seed (0: the first filter showed no gain, so no filter is used):",
        "",
    ]
    body = [
        [penalty]
        + [
            ", ".join(str(r["flywheel_round"]) for r in rows if r["penalty"] == penalty and r["flip"] == f)
            for f in flips
        ]
        for penalty in penalties
    ]
    lines += table(["penalty", *(f"flips {f:g}" for f in flips)], body)
    lines += reading(found)
    return "\n".join(lines).rstrip() + "\n"


def mean(numbers: list[float]) -> float:
    """Over seeds."""
    return sum(numbers) / len(numbers)


def reading(found: dict[str, Any]) -> list[str]:
    """What the tables show, counted from them, and what they cannot show."""
    s, rows = found["settings"], found["rows"]
    arms = [a for a in rows[0]["accuracy"] if a not in UNSEEN]
    cells = {
        (p, f, a): against(rows, p, f, a, "none") for p in s["penalties"] for f in s["flips"] for a in arms
    }
    adjusted = dict(zip(cells, holm([d.p for d in cells.values()])))
    lines = ["## What this shows, and what it does not", ""]
    for penalty in s["penalties"]:
        mine = {key: d.interval for key, d in cells.items() if key[0] == penalty}
        better = [key for key, i in mine.items() if i.low > 0]
        worse = [key for key, i in mine.items() if i.high < 0]
        sure = [key for key in better if adjusted[key] < 0.05]
        lines.append(
            f"- {penalty.capitalize()} penalty: of {len(mine)} comparisons with no filter, the interval is "
            f"above 0 in {len(better)} and below 0 in {len(worse)}; {len(sure)} of the gains survive "
            f"Holm's correction over all {len(cells)} comparisons of the page."
        )
        for flip in s["flips"]:
            up = [a for _, f, a in better if f == flip]
            down = [a for _, f, a in worse if f == flip]
            lines.append(
                f"  - flips {flip:g}: better: {'; '.join(up) or 'none'}. Worse: {'; '.join(down) or 'none'}."
            )
        oracle = against(rows, penalty, s["flips"][-1], "oracle", "none").interval
        lines.append(
            f"  - Dropping exactly the flipped pairs would bring {cell(oracle)} at flips "
            f"{s['flips'][-1]:g}; what a filter gains is to be read against that."
        )
    gaps = {
        (p, f, a): against(rows, p, f, f"{a}, cross-fitted", f"{a}, naive").interval
        for p in s["penalties"]
        for f in s["flips"]
        for a in [x.removesuffix(", naive") for x in arms if x.endswith(", naive")]
    }
    lines += [
        f"- Cross-fitted beats naive in {sum(i.low > 0 for i in gaps.values())} of {len(gaps)} comparisons "
        f"({named([a for (_, _, a), i in gaps.items() if i.low > 0])}) and loses in "
        f"{sum(i.high < 0 for i in gaps.values())} "
        f"({named([a for (_, _, a), i in gaps.items() if i.high < 0])}); in the rest the interval includes "
        "0.",
        *penalty_instead(s, rows, arms),
        *estimates(s, rows),
        *wheel(s, rows),
        "- Signed margin at a fraction and small loss at the same fraction keep the same pairs when "
        "labels are hard, so small loss is shown with a threshold.",
        "- Five seeds give wide intervals, and intervals that are not corrected for their number exclude "
        "0 by chance now and then; an interval that includes 0 does not show that a filter has no effect.",
        "- Flips here strike every pair alike. Errors that follow a taste (length, flattery) or the "
        "difficulty of a pair are learnt by the scorer too, and nothing here says that a filter finds "
        "those.",
        "- One small linear learner, one synthetic world, one size: nothing here says how a large reward "
        "model behaves. The two penalties differ in how much the learner memorises.",
    ]
    return lines


def named(names: list[str]) -> str:
    """Each name with how often it occurs."""
    return ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names)) or "none"


def penalty_instead(s: dict[str, Any], rows: Rows, arms: list[str]) -> list[str]:
    """Is a stronger penalty without a filter as good as a filter with the weaker one?"""
    weak, strong = s["penalties"]
    parts = []
    for flip in s["flips"]:
        plain = values(rows, strong, flip, "accuracy", "none")
        gaps = [paired_difference(values(rows, weak, flip, "accuracy", a), plain).interval for a in arms]
        above, below = sum(g.low > 0 for g in gaps), sum(g.high < 0 for g in gaps)
        parts.append(f"{above} above and {below} below at flips {flip:g}")
    return [
        f"- A {strong} penalty and no filter, against each of the {len(arms)} filters with the {weak} "
        f"penalty: of the filters, {'; '.join(parts)}."
    ]


def estimates(s: dict[str, Any], rows: Rows) -> list[str]:
    """How far the estimated flip rates are off."""
    lines = []
    for how in HOW:
        errors = [r["flip_estimate"][how] - r["true_flip_rate"] for r in rows]
        lines.append(
            f"- The flip rate estimated with the {how} scorer is off by {min(errors):+.3f} to "
            f"{max(errors):+.3f}, too high in {sum(e > 0 for e in errors)} of {len(errors)} runs. "
            "Confident learning counts the scorer's own errors as flips and what it has memorised as "
            "confirmed."
        )
    return lines


def wheel(s: dict[str, Any], rows: Rows) -> list[str]:
    """How often the flywheel turned, and how fine a gain it could see."""
    half = mean([(r["flywheel_first_gain"]["high"] - r["flywheel_first_gain"]["low"]) / 2 for r in rows])
    return [
        f"- The flywheel took a filter in {sum(r['flywheel_round'] > 0 for r in rows)} of {len(rows)} "
        f"runs. With {s['validation']} noisy held-out pairs the interval of its first gain is on average "
        f"{half:.3f} to each side: a gain smaller than that usually stops it.",
    ]
