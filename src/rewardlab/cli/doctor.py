"""What is here, what is usable, and what to install for the rest."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.markup import escape
from rich.table import Table

DISTRIBUTION = "rewardlab"
IMPORTED = ("torch", "transformers", "peft", "safetensors", "pyarrow")
"""Packages that are also imported: an installed but broken one is the common trouble with them."""
NOT_FOR_USERS = ("dev",)
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    """What to do about it: a command where there is one."""
    optional: bool = False
    """The core works without it."""


def diagnose() -> list[Check]:
    """Look at Python, packages, hardware, disk, embedded checkpoints and extras, as installed now."""
    try:
        needed, extras = _requirements()
    except PackageNotFoundError:
        return [Check(DISTRIBUTION, False, "not installed", "pip install -e . in the source folder")]
    checks = [Check(DISTRIBUTION, True, version(DISTRIBUTION)), _python()]
    checks += [_package(r, f"pip install {_quoted(str(r))}") for r in needed]
    broken = [c for c in (_importable(name) for name in IMPORTED) if not c.ok]
    names = {c.name for c in broken}
    checks = [c for c in checks if not (c.ok and c.name in names)] + broken
    if "torch" not in names:
        checks += _hardware()
    checks += [_disk(Path()), _embedded()]
    for extra, parts in extras.items():
        advice = f"pip install '{DISTRIBUTION}[{extra}]'"
        checks += [_package(r, advice, optional=True) for r in parts]
    return checks


def render(checks: list[Check]) -> Table:
    """A table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[dim]--[/]" if check.optional else "[bold red]!![/]"
        table.add_row(mark, check.name, escape(check.found), "" if check.ok else escape(check.advice))
    return table


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the installed package itself says it needs, and what each of its extras adds."""
    found = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    needed = [r for r in found if _applies(r, "")]
    names = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    extras = {
        name: [r for r in found if not _applies(r, "") and _applies(r, name)]
        for name in names
        if name not in NOT_FOR_USERS
    }
    return needed, extras


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _python() -> Check:
    needed = metadata(DISTRIBUTION)["Requires-Python"]
    found = platform.python_version()
    return Check("python", SpecifierSet(needed).contains(found), found, f"use Python {needed}")


def _package(requirement: Requirement, advice: str, *, optional: bool = False) -> Check:
    """Whether a distribution is installed in a version that fits."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Check(requirement.name, False, "not installed", advice, optional)
    if not requirement.specifier.contains(found, prereleases=True):
        found = f"{found}, but {requirement.specifier} is needed"
        return Check(requirement.name, False, found, advice, optional)
    return Check(requirement.name, True, found, "", optional)


def _importable(name: str) -> Check:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation can raise anything
        lines = str(error).splitlines() or [""]
        found = f"cannot be imported: {type(error).__name__}: {lines[0]}"
        return Check(name, False, found, f"pip install --force-reinstall {name}")
    return Check(name, True, "")


def _hardware() -> Iterator[Check]:
    import torch

    from rewardlab.records.manifest import hardware

    facts = hardware()
    threads = f"{facts['cores']} cores, {facts['threads']} threads, {facts['memory_gib']} GiB"
    yield Check("cpu", True, f"{facts['cpu']}, {threads}")
    fast = [f for f in facts["cpu_flags"] if "bf16" in f]
    advice = "bf16 works but is slow; use `precision: fp32` on the CPU"
    yield Check("bf16 on the cpu", bool(fast), ", ".join(fast) or "no fast bf16", advice, optional=True)
    if not facts["cuda"]:
        driver = shutil.which("nvidia-smi") is not None
        blind = driver and torch.version.cuda is None
        advice = "this torch is built without CUDA: install a CUDA build of torch" if blind else ""
        yield Check("gpu", False, "driver found, but torch sees none" if driver else "none", advice, True)
        return
    for number, name in enumerate(facts["cuda"]):
        yield _gpu(torch.cuda.get_device_properties(number), name)


def _gpu(facts: Any, name: str) -> Check:
    native = (facts.major, facts.minor) >= (8, 0)  # compute capability of Ampere, the first with bf16
    bf16 = "bf16" if native else "no bf16: use `precision: fp32`"
    return Check("gpu", True, f"{name}, {facts.total_memory / GIB:.0f} GiB, {bf16}", "", optional=True)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / GIB
    return Check("disk", free >= 1, f"{free:.0f} GiB free here", "free some space: checkpoints need it", True)


def _embedded() -> Check:
    """The checkpoints inside the package, by whether their weights can be opened."""
    folders = sorted(Path(str(files(DISTRIBUTION))).glob("models/embedded/*/config.json"))
    state = {f.parent.name: _opens(f.with_name("model.safetensors")) for f in folders}
    found = ", ".join(name if good else f"{name} (damaged)" for name, good in state.items()) or "none"
    advice = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
    return Check("embedded checkpoints", bool(state) and all(state.values()), found, advice)


def _opens(path: Path) -> bool:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        return path.is_file()
    try:
        with safe_open(path, "pt") as weights:
            return bool(list(weights.keys()))
    except (OSError, SafetensorError):
        return False


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if any(c in requirement for c in "<>!,;~=") else requirement
