"""Write docs/objectives.md from the docstrings of rewardlab.objectives: python docs/objectives.py

A test fails when the page is not what this prints, so the page cannot drift from the code.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import rewardlab.objectives
from rewardlab.objectives.advantage.choice import AdvantageName
from rewardlab.objectives.policy_gradient.methods import METHODS, options_of
from rewardlab.objectives.policy_gradient.methods import LossName as PolicyLoss
from rewardlab.objectives.preference.settings import REFERENCE_FREE
from rewardlab.objectives.preference.settings import LossName as PreferenceLoss

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Objectives

Every loss, advantage and estimator, from the docstrings of `rewardlab.objectives`. All are pure functions of
tensors; a loss returns sums with a unit (token, sequence or pair), which one reducer divides by the step's
global counts. Made by `python docs/objectives.py`.
"""


def modules() -> Iterator[ModuleType]:
    """All modules below rewardlab.objectives, in alphabetical order."""
    root = rewardlab.objectives
    for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
        yield importlib.import_module(found.name)


def entries(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Public functions and classes defined in a module, with signature and docstring, in source order."""
    for name, thing in vars(module).items():
        public = not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
        if public and (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__doc__:
            knobs = ""
            if inspect.isfunction(thing):
                parameters = inspect.signature(thing).parameters.values()
                knobs = ", ".join(
                    p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters
                )
                knobs = f"({knobs})"
            yield f"{name}{knobs}", inspect.getdoc(thing) or ""


def names() -> str:
    """The names a recipe may use, with their knobs."""
    lines = [
        "## Names in recipes",
        "",
        "`kind: dpo`, setting `loss` (one name, or several with weights):",
        "",
    ]
    lines += [
        f"- `{n}`" + (" (no reference)" if n in REFERENCE_FREE else "") for n in get_args(PreferenceLoss)
    ]
    lines += ["", "`kind: grpo`, setting `loss`:", "", "| name | aggregation | options |", "|---|---|---|"]
    for name in get_args(PolicyLoss):
        method = METHODS.get(name)
        options = ", ".join(f"{k}={v}" for k, v in options_of(name).items())
        lines.append(f"| `{name}` | {method.aggregation if method else 'group'} | {options} |")
    lines += [
        "",
        "`kind: grpo`, setting `advantage`: " + ", ".join(f"`{n}`" for n in get_args(AdvantageName)),
        "",
    ]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    parts = [HEAD, names()]
    for module in modules():
        found = list(entries(module))
        if not found:
            continue
        parts.append(f"## {module.__name__.removeprefix('rewardlab.objectives.')}\n")
        parts.append(f"{inspect.getdoc(module)}\n")
        parts += [f"### `{title}`\n\n```text\n{text}\n```\n" for title, text in found]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
