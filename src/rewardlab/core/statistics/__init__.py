"""Intervals, paired tests and corrections that every reported number goes through.

Which to use: a few seeds -> `t_interval`; many prompts -> `mean_interval`; a ratio of totals ->
`ratio_interval`; seeds with prompts inside -> `hierarchical_bootstrap`; a rate -> `wilson`; the mean of
values between 0 and 1 -> `bounded_mean_interval`; two rates -> `newcombe`, `newcombe_paired`; two
arms on the same units -> `paired_difference`; "the same as" -> `tost`; many p-values -> `holm`.
"""

from __future__ import annotations

from rewardlab.core.statistics.bootstrap import hierarchical_bootstrap, mean_interval, ratio_interval
from rewardlab.core.statistics.comparison import Difference, Equivalence, holm, paired_difference, tost
from rewardlab.core.statistics.interval import Interval, json_number, t_interval
from rewardlab.core.statistics.rates import bounded_mean_interval, newcombe, newcombe_paired, wilson

__all__ = [
    "Difference",
    "Equivalence",
    "Interval",
    "bounded_mean_interval",
    "hierarchical_bootstrap",
    "holm",
    "json_number",
    "mean_interval",
    "newcombe",
    "newcombe_paired",
    "paired_difference",
    "ratio_interval",
    "t_interval",
    "tost",
    "wilson",
]
