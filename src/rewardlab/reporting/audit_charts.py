"""The audit page's drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from rewardlab.reporting.svg import FIRST, MUTED, SECOND, chart, inline, name_y

Rows = Sequence[Mapping[str, Any]]


def _whiskers(ax: Axes, xs: Sequence[float], rows: Rows, key: str) -> None:
    for x, row in zip(xs, rows):
        ax.plot([x, x], [row["low"], row["high"]], color=FIRST, linewidth=1.3)
    ax.plot(xs, [row[key] for row in rows], color=FIRST, marker="o", markersize=4, linewidth=1)


def reliability_chart(rows: Rows, reward: str, number: int) -> Markup:
    """Observed rate over claimed probability with intervals."""
    with chart(230) as (figure, (ax,)):
        ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
        _whiskers(ax, [row["predicted"] for row in rows], rows, "observed")
        ax.set_xlabel("claimed probability")
        name_y(ax, f"observed share · {reward}")
        text = "; ".join(f"claimed {r['predicted']:.2f}, observed {r['observed']:.2f}" for r in rows)
        return inline(figure, f"audit-reliability-{number}", f"Reliability of {reward}", f"{text}.")


def margin_chart(rows: Rows, reward: str, number: int) -> Markup:
    """Accuracy in bins of the score difference, from the smallest to the largest."""
    with chart(230) as (figure, (ax,)):
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1)
        _whiskers(ax, [float(i + 1) for i in range(len(rows))], rows, "accuracy")
        ax.set_xlabel("tenth of the pairs, smallest difference first")
        name_y(ax, f"accuracy · {reward}")
        text = "; ".join(f"margin {r['margin']:.3g}, accuracy {r['accuracy']:.2f}" for r in rows)
        return inline(figure, f"audit-margin-{number}", f"Accuracy of {reward} by margin", f"{text}.")


def best_of_n_chart(curve: Rows, reward: str, number: int) -> Markup:
    """Gain over one random answer, over the KL bound, each column over its own largest absolute gain."""
    kl = [row["kl_bound"] for row in curve]
    with chart(230) as (figure, (ax,)):
        ax.axhline(0, color=MUTED, linestyle=":", linewidth=1)
        said = []
        for column, colour in (("proxy", FIRST), ("reference", SECOND)):
            at = [row["rewards"][column] for row in curve]
            gain = [v["estimate"] - at[0]["estimate"] for v in at]
            most = max(map(abs, gain)) or 1.0
            ax.plot(kl, [g / most for g in gain], color=colour, marker="o", markersize=4, label=column)
            said.append(f"{column} {at[0]['estimate']:.3g} to {at[-1]['estimate']:.3g}")
        ax.legend(loc="best")
        ax.set_xlabel("KL bound in nats, log n − (n − 1)/n")
        name_y(ax, f"gain, of its largest · {reward}")
        return inline(figure, f"audit-bestofn-{number}", f"Best of n by {reward}", f"{'; '.join(said)}.")
