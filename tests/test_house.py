"""The house rule: a folder imports only from folders above it in docs/design.md, section 4."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rewardlab"


def floors() -> list[str]:
    house = (ROOT / "docs" / "design.md").read_text().split("## 4. The house")[1].split("tests/")[0]
    return re.findall(r"^  (\w+)/", house, re.MULTILINE)


def imported(file: Path) -> set[str]:
    """Folders of ours that a file imports, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("rewardlab.")}
    return found


def test_imports_point_upwards() -> None:
    order = floors()
    assert order[0] == "core"
    assert order[-1] == "cli"
    wrong = []
    for folder in (f for f in SOURCE.iterdir() if f.is_dir() and any(f.glob("*.py"))):
        allowed = set(order[: order.index(folder.name) + 1])
        for file in folder.rglob("*.py"):
            wrong += [f"{file.relative_to(SOURCE)} -> {x}" for x in imported(file) - allowed]
    assert wrong == []


def test_files_stay_small() -> None:
    files = [f for top in ("src", "tests", "benchmarks") for f in (ROOT / top).rglob("*.py")]
    assert [str(f) for f in files if len(f.read_text().splitlines()) > 500] == []
