"""What a run was made with: versions, hardware, seeds, command, code, data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "rewardlab",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "numpy",
    "scipy",
    "pyarrow",
)
OPTIONAL_PACKAGES = ("datasets", "vllm", "ray")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""The instructions that decide how fast float32 and bfloat16 are on a CPU."""


def describe(seed: int) -> dict[str, Any]:
    """The parts that are known before the first stage."""
    return {
        "started": now(),
        "seed": seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        "hardware": hardware(),
        "code": code(),
        "data": {},
    }


def update(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the entries of `new`: mappings are merged at every depth, all else is replaced."""
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = update(merged[key], value) if both else value
    return merged


def versions() -> dict[str, str]:
    """Python and the packages that can change a number; optional ones only where installed."""
    found = {p: package_version(p) for p in PACKAGES + OPTIONAL_PACKAGES}
    kept = {p: v or "not installed" for p, v in found.items() if v or p in PACKAGES}
    return {"python": platform.python_version(), **kept}


def hardware() -> dict[str, Any]:
    """The machine as far as it matters for speed and for bits."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    name, flags = _cpu()
    return {
        "platform": platform.platform(terse=True),
        "cpu": name,
        "cpu_flags": [f for f in CPU_FLAGS if f in flags],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "cuda": [torch.cuda.get_device_name(i) for i in cuda],
    }


def code() -> dict[str, Any]:
    """The git commit of this code and whether files differ from it; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        # An installed copy may lie inside somebody else's repository: only a tracked file is ours.
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        changed = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
        return {"commit": _git(here, "rev-parse", "HEAD"), "changed": changed}
    except (OSError, subprocess.SubprocessError):
        return {}


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()


def _cpu() -> tuple[str, frozenset[str]]:
    """The processor's name and flags, where the system tells them."""
    facts: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(facts.get("flags", "").split())
