"""The terminal's table fits and loses no number."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rewardlab.reporting import summary_table


def printed(summary: dict[str, Any], width: int) -> list[str]:
    console = Console(width=width, record=True, file=StringIO())
    console.print(summary_table(summary))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_and_is_not_cut(summary: dict[str, Any], width: int) -> None:
    lines = printed(summary, width)
    text = "\n".join(lines)
    assert max(len(line) for line in lines) <= width
    assert "…" not in text
    for number in (
        "0.21",
        "[0.14, 0.28]",
        "[0.38, 0.54]",
        "[0.55, 0.67]",
        "[43.2, 47.5]",
        "[0.786, 0.822]",
        "+0.11",
    ):
        assert number in text
    assert "✗ fail Padding pays." in text


def test_parts_that_were_not_measured(summary: dict[str, Any]) -> None:
    assert "Nothing was measured." in "\n".join(printed({}, 80))
    alone = "\n".join(printed({"policies": {"sft": {"length": 12.0}}}, 80))
    assert "not measured" in alone
    assert "reward model" not in alone
    assert "policies" not in "\n".join(printed({"reward_model": summary["reward_model"]}, 80))
