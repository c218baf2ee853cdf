"""Numbers as a reader sees them: estimates with intervals, rounded alike, and what they allow one to say.

Nothing is computed here but the number of digits. An interval that is stored without bounds stays without.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Reading = Literal["raised", "lowered", "no clear change", "no interval"]
MOST_DIGITS = 4


@dataclass(frozen=True)
class Interval:
    """An estimate as stored, with its bounds and sample size where they were stored too."""

    estimate: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


def finite(value: object) -> float | None:
    """The value as a float, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_interval(value: object) -> Interval | None:
    """An interval from `{"estimate", "low", "high", "n"}` or a bare number; None if there is no number."""
    if not isinstance(value, dict):
        number = finite(value)
        return None if number is None else Interval(number)
    estimate = finite(value.get("estimate"))
    if estimate is None:
        return None
    low, high, n = finite(value.get("low")), finite(value.get("high")), finite(value.get("n"))
    if low is None or high is None:
        low = high = None
    return Interval(estimate, low, high, None if n is None else int(n))


def read_difference(difference: Interval) -> Reading:
    """What an interval of a difference allows one to say: it must exclude zero to be called a change."""
    if difference.low is None or difference.high is None:
        return "no interval"
    if difference.low > 0:
        return "raised"
    if difference.high < 0:
        return "lowered"
    return "no clear change"


def digits_for(intervals: Iterable[Interval]) -> int:
    """Decimals that show two significant digits of the narrowest interval, the same for a whole column.

    Without any interval of positive width, three significant digits of the largest estimate.
    """
    rows = list(intervals)
    widths = [r.high - r.low for r in rows if r.low is not None and r.high is not None and r.high > r.low]
    if widths:
        wanted = 1 - math.floor(math.log10(min(widths)))
    else:
        largest = max((abs(r.estimate) for r in rows), default=0.0)
        wanted = 2 - math.floor(math.log10(largest)) if largest > 0 else 2
    return min(max(wanted, 0), MOST_DIGITS)


def show_number(value: float | None, digits: int | None = None, *, signed: bool = False) -> str:
    """A number with a true minus sign; a non-zero number is never rounded to zero.

    Without `digits`, four significant digits and no trailing zeros.

    >>> show_number(-0.25, 1), show_number(0.00001, 2), show_number(0.5, 2, signed=True)
    ('−0.2', '1e−05', '+0.50')
    """
    if value is None:
        return "–"
    value = value or 0.0  # no minus sign on a negative zero
    if digits is None:
        text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
        return text.replace("-", "−")
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if value != 0 and float(text) == 0:
        text = f"{value:+.0e}" if signed else f"{value:.0e}"
    return text.replace("-", "−")


def show_bounds(interval: Interval, digits: int | None = None) -> str:
    """`[low, high]`, or an empty text where no bounds were stored."""
    if interval.low is None or interval.high is None:
        return ""
    digits = digits_for([interval]) if digits is None else digits
    return f"[{show_number(interval.low, digits)}, {show_number(interval.high, digits)}]"


def show_interval(interval: Interval, digits: int | None = None, *, signed: bool = False) -> str:
    """`estimate [low, high]` on one line."""
    digits = digits_for([interval]) if digits is None else digits
    return f"{show_number(interval.estimate, digits, signed=signed)} {show_bounds(interval, digits)}".strip()


def show_p(value: object) -> str:
    """A p-value with three decimals, or its bound when smaller."""
    p = finite(value)
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
