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


# Ours -> TRL 1.16's setting, verl's `policy_loss.loss_mode`, OpenRLHF's policy loss; "" where there is none.
LOSSES: dict[PolicyLoss, tuple[str, str, str]] = {
    "ppo": ("", "vanilla", "ppo"),
    "dual_clip": ("loss_type with delta", "vanilla with clip_ratio_c", ""),
    "grpo": ("loss_type=grpo", "vanilla, seq-mean-token-mean", ""),
    "bnpo": ("loss_type=bnpo", "", ""),
    "dr_grpo": ("loss_type=dr_grpo", "", ""),
    "dapo": ("loss_type=dapo", "vanilla, token-mean", ""),
    "gspo": ("importance_sampling_level=sequence", "gspo", "gspo"),
    "luspo": ("loss_type=luspo", "", ""),
    "gmpo": ("experimental.gmpo", "geo_mean", ""),
    "sapo": ("loss_type=sapo", "sapo", ""),
    "cispo": ("loss_type=cispo", "cispo", ""),
    "vespo": ("loss_type=vespo", "", ""),
    "dppo_tv": ("", "dppo_tv", ""),
    "dppo_kl": ("", "dppo_kl", ""),
    "clip_cov": ("", "clip_cov", ""),
    "kl_cov": ("", "kl_cov", ""),
    "gpg": ("", "gpg", ""),
}
# Ours -> TRL 1.16's setting, verl's `adv_estimator`, OpenRLHF's advantage estimator.
ADVANTAGES: dict[AdvantageName, tuple[str, str, str]] = {
    "grpo": ("scale_rewards=none", "grpo, norm_adv_by_std_in_grpo=False", "dr_grpo"),
    "grpo_std": ("scale_rewards=group", "grpo", "group_norm"),
    "rloo": ("RLOOTrainer", "rloo", "rloo"),
    "reinforce_pp": ("", "reinforce_plus_plus", "reinforce"),
    "reinforce_pp_baseline": ("scale_rewards=batch", "reinforce_plus_plus_baseline", "reinforce_baseline"),
    "opo": ("", "opo", ""),
    "gpg": ("", "gpg", ""),
}


def peers() -> str:
    """What TRL, verl and OpenRLHF call the same thing."""
    lines = [
        "## What others call it",
        "",
        "Left out: names without a counterpart. Where one name hides different numbers, the docstring,",
        "[parity_grpo.md](parity_grpo.md) or [parity.md](parity.md) says so.",
    ]
    for title, table in (("loss", LOSSES), ("advantage", ADVANTAGES)):
        lines += ["", f"| {title} | TRL | verl | OpenRLHF |", "|---|---|---|---|"]
        for name, theirs in table.items():
            lines.append(f"| `{name}` | " + " | ".join(f"`{x}`" if x else "" for x in theirs) + " |")
    return "\n".join([*lines, ""])


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
    parts = [HEAD, names(), peers()]
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
