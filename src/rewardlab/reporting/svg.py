"""Matplotlib figures as inline SVG that follows the page: its colours, its font, its dark mode.

Colours are drawn with stand-ins and written as CSS variables; text stays text. Every chart has a title and
a description for screen readers. Ids are prefixed by the chart's name, so that many charts share one page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, MUTED, RULE, PAPER, FIRST, SECOND = (f"#0100{i:02x}" for i in range(6))
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
WIDTH = 320
"""Width of every chart in CSS pixels before scaling: the narrowest phone, where text must not be tiny."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rewardlab",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "path.simplify": True,
}


@contextmanager
def chart(height: int, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `panels` stacked axes that share x, `height` CSS pixels high, in the report's style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        for ax in axes:
            ax.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))
            ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
            ax.xaxis.set_major_formatter(FuncFormatter(tick))
            ax.yaxis.set_major_formatter(FuncFormatter(tick))
            ax.grid(visible=False, axis="x")
        yield figure, list(axes)


def tick(value: float, _position: int | None = None) -> str:
    """A tick label without an offset, with a true minus sign."""
    return (f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.6g}").replace("-", "−")


def name_y(ax: Axes, text: str) -> None:
    """Write the y axis's name flat above it, where it needs no turned head."""
    ax.set_title(text, loc="left", fontsize=10.5, color=MUTED, pad=6)


def inline(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as an `<svg role="img">` element; `name` must be unique on the page."""
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    name = re.sub(r"\W", lambda m: f"-{ord(m[0]):x}-", name)  # two names never share an id
    _clean(root, name)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    labels = f"{name}-title {name}-desc"
    root.attrib.update({"class": "chart", "viewBox": box, "role": "img", "aria-labelledby": labels})
    for tag, text in (("desc", description), ("title", title)):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(0, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(root: ElementTree.Element, name: str) -> None:
    """Drop what a page does not need, and rewrite names, colours and overlong coordinates in place."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        if element.tag != "text":
            element.text = None
        element.tail = None
        identifier = element.attrib.pop("id", None)
        if identifier and element.tag in ("path", "clipPath"):
            element.attrib["id"] = f"{name}-{identifier}"
        for key, value in list(element.attrib.items()):
            element.attrib.pop(key)
            element.attrib[key.split("}")[-1]] = _attribute(value, name)


def _attribute(value: str, name: str) -> str:
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    value = re.sub(r"^#(?=[mp]\w{6,}$)", f"#{name}-", value)
    value = re.sub(r"font-family: [^;]*;? ?", "", value)
    value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
    value = re.sub(r"-?\d+\.\d{2,}", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), value)
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, variable)
    return re.sub(r"\s+", " ", value).strip()
