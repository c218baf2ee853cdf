"""The page of audits on real data, from finished runs.

python benchmarks/audit_real.py RUN... > docs/audit_real_data.md

Every number comes from the runs' summary.json, whose hashes are printed; the data's from manifest.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rewardlab.records.atomic import sha256
from rewardlab.reporting.result_tables import findings, markdown_tables

MOST_ROWS = 70
"""A longer table is left to the run's report."""

HEAD = """# Audits on real data

Public annotations, none of which are part of this project: AlpacaEval (Dubois et al. 2024, arXiv 2404.04475;
CC-BY-NC-4.0), LLMBar, JudgeBench, RM-Bench, HH-RLHF, Auto-J, PandaLM. The files are fixed subsets, so numbers
are not those of the full sets. Commands:

```
rewardlab train recipes/audit_alpaca.yaml data_root=FOLDER
rewardlab train recipes/audit_judges.yaml data_root=FOLDER
python benchmarks/audit_real.py runs/audit-alpaca runs/audit-judges > docs/audit_real_data.md
```

Length-controlled rates are our own fit of the published formula; with the published coefficients it gives the
published rates (row "published coefficients"), so the distance that remains is the fit's. AlpacaEval 1 has no
published difficulties of instructions: ours come from the systems in the file.

Brackets are 95% intervals. Tables of more than {most} rows are in the runs' `report.html` only.
"""


def section(folder: Path) -> str:
    """One run: its question, warnings, tables, and the hashes behind them."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    short = {**summary, "tables": [t for t in summary["tables"] if len(t["rows"]) <= MOST_ROWS]}
    files = {facts["source"]: facts["sha256"] for facts in manifest["data"].values()}
    lines = [f"## {summary['name']}", "", summary["question"], ""]
    lines += [f"- {text}" for text in findings(summary)]
    lines += [f"- Warning: {text}" for text in summary["warnings"]]
    lines += ["", markdown_tables(short)]
    lines += [f"Seed {summary['seed']}; summary.json sha256 `{sha256(folder / 'summary.json')}`. Data:", ""]
    lines += [f"- `{source}` sha256 `{digest}`" for source, digest in files.items()]
    return "\n".join(lines)


def page(folders: list[Path]) -> str:
    """The whole page."""
    return "\n".join([HEAD.format(most=MOST_ROWS), *map(section, folders)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page([Path(a) for a in sys.argv[1:]]))
