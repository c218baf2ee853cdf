"""What is here, what is usable, and what to install for the rest."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.table import Table

from rewardlab.models.loading import EMBEDDED
from rewardlab.records.manifest import hardware

NEEDED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "numpy",
    "scipy",
    "pyarrow",
    "pydantic",
)
OPTIONAL = {"datasets": "Hugging Face dataset ids (`hf:org/name`)"}
"""Packages of an extra, and what they make usable."""


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    optional: bool = False


def diagnose() -> list[Check]:
    """Look at packages, hardware and embedded checkpoints; imports nothing heavy that may be broken."""
    checks = [_package(name) for name in NEEDED]
    facts = hardware()
    checks.append(Check("cpu", True, f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB"))
    checks.append(Check("cpu instructions", True, str(facts["cpu_capability"])))
    cuda = ", ".join(facts["cuda"])
    checks.append(Check("gpu", bool(cuda), cuda or "none", "runs on the CPU", optional=True))
    bf16 = bool(cuda) and torch.cuda.is_bf16_supported()
    precision = "yes" if bf16 else "no"
    checks.append(Check("bf16 on the gpu", bf16, precision, "use precision: fp32", optional=True))
    embedded = sorted(p.parent.name for p in EMBEDDED.glob("*/model.safetensors"))
    checks.append(
        Check("embedded checkpoints", bool(embedded), ", ".join(embedded) or "none", "run `make embedded`")
    )
    for name, use in OPTIONAL.items():
        present = importlib.util.find_spec(name) is not None
        advice = "" if present else f"pip install 'rewardlab[{name}]'  # {use}"
        checks.append(Check(name, present, _version(name) or "not installed", advice, optional=True))
    return checks


def render(checks: list[Check]) -> Table:
    """A table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[dim]--[/]" if check.optional else "[bold red]!![/]"
        table.add_row(mark, check.name, check.found, "" if check.ok else check.advice, style=None)
    return table


def _package(name: str) -> Check:
    found = _version(name)
    return Check(name, found is not None, found or "not installed", f"pip install {name}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
