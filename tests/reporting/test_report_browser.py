"""What only a browser can tell: no sideways scrolling, and a script that its own policy lets run."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewardlab.reporting import build_report

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
WIDTHS = (320, 390, 768, 1200)


def load(page: Path, profile: Path) -> str:
    """The document after its scripts ran."""
    command = [str(BROWSER), *FLAGS.split(), "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def report(write_run: Callable[..., Path], summary: dict[str, Any]) -> Path:
    long = "grpo-with-a-rather-long-name-0.1"
    summary["policies"][long] = summary["policies"]["dpo"]
    summary["comparisons"].append({**summary["comparisons"][0], "policy": long})
    summary["samples"][0]["answers"][0]["text"] = "x" * 400
    rows = [{"step": s, "reward": 0.1 * s, "gold": 0.2, "kl": 1.0} for s in range(5)]
    manifest = json.dumps(
        {"data": {"pairs": {"path": "a/" * 60, "sha256": "ab" * 32, "rows": 1, "bad_rows": 0}}}
    )
    recipe = "key: " + "y" * 300
    return build_report(
        write_run(summary, {"sft": rows, "grpo": rows}, manifest_json=manifest, recipe_yaml=recipe)
    )


def test_no_width_scrolls_sideways(report: Path, tmp_path: Path) -> None:
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())
    probe = """<script>document.querySelectorAll("details").forEach((d) => { d.open = true; });
    parent.postMessage([innerWidth, document.documentElement.scrollWidth], "*");</script>"""
    inner = html.escape(page.replace("</body>", probe + "</body>"))
    frames = "".join(
        f'<iframe style="border:0" width="{w}" height="800" srcdoc="{inner}"></iframe>' for w in WIDTHS
    )
    listen = """<pre></pre><script>
    onmessage = (e) => { document.querySelector("pre").append(`${e.data};`); };</script>"""
    harness = tmp_path / "harness.html"
    harness.write_text(f"<!doctype html><meta charset=utf-8>{listen}{frames}")
    found = re.search(r"<pre>([^<]*)</pre>", load(harness, tmp_path / "profile"))
    assert found
    measured = sorted(tuple(int(x) for x in pair.split(",")) for pair in found[1].split(";") if pair)
    assert len(measured) == len(WIDTHS)
    for (inner_width, scroll_width), width in zip(measured, WIDTHS):
        assert inner_width == width
        assert scroll_width <= inner_width


def test_the_script_runs_under_its_own_policy(report: Path, tmp_path: Path) -> None:
    before, after = report.read_text(), load(report, tmp_path / "profile")
    assert before.count('<article class="sample">') == 2  # without the script all samples are shown
    assert after.count('<article class="sample">') == 1
    assert after.count('<article class="sample" hidden="">') == 1
    assert after.count('role="tab"') == 2
    assert "1 of 2</output>" in after
