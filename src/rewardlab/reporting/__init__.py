"""The report of a run: one HTML file for people, one table for the terminal."""

from __future__ import annotations

from rewardlab.reporting.report import build_report
from rewardlab.reporting.terminal import summary_table

__all__ = ["build_report", "summary_table"]
