"""How figures are written: as many digits as they deserve, units apart, intervals beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOTHING = "—"
BYTE_UNITS = (("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30))
COUNT_UNITS = (("", 1), ("thousand", 10**3), ("million", 10**6), ("billion", 10**9))
MOST_DECIMALS = 9
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Measured:
    """A figure and its interval, all three with the same decimals."""

    value: str
    low: str
    high: str

    @property
    def interval(self) -> str:
        """The interval as "low–high"."""
        return f"{self.low}–{self.high}"

    def __str__(self) -> str:
        """Return "value (low–high)"."""
        return f"{self.value} ({self.interval})"


@dataclass(frozen=True)
class Unit:
    """The unit of a column: its name and how many of the base unit it is."""

    name: str
    size: int

    def write(self, value: float) -> str:
        """Write a value given in the base unit."""
        return significant(value / self.size) if self.size > 1 else f"{value:,.0f}"


def fixed(value: float, decimals: int) -> str:
    """Write with that many decimals and a comma between thousands; zero has no sign."""
    return f"{round(value, decimals) + 0.0:,.{max(decimals, 0)}f}"


def decimals_for(value: float, digits: int) -> int:
    """Decimals that show `digits` significant digits of a value, never negative."""
    if value == 0 or not math.isfinite(value):
        return 0
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return min(max(digits - 1 - exponent, 0), MOST_DECIMALS)


def significant(value: float, digits: int = 3) -> str:
    """Write with at least that many significant digits; the integer part is never rounded away."""
    return fixed(value, decimals_for(value, digits))


def measured(value: float, low: float, high: float, apart_from: float | None = None) -> Measured:
    """Write a figure with its interval.

    The last digit shown is the first of the interval's half-width (the second when the first is 1), as
    metrology does it. A point interval gets three significant digits.

    Args:
        value: the figure.
        low: lower end of its interval.
        high: upper end.
        apart_from: a threshold the interval excludes; enough digits are shown to see that it does.
    """
    decimals = _deserved(value, low, high)
    if apart_from is not None:
        nearest = min((low, high), key=lambda end: abs(end - apart_from))
        decimals = _telling(nearest, apart_from, decimals)
    return _measured(value, low, high, decimals)


def measured_column(figures: Sequence[tuple[float, float, float]], scale: float = 1.0) -> list[Measured]:
    """Write figures with their intervals, all with the decimals of the one that deserves the fewest.

    Args:
        figures: value, low, high of each.
        scale: factor on all of them, 100 for percentages.
    """
    scaled = [(scale * value, scale * low, scale * high) for value, low, high in figures]
    decimals = min((_deserved(*figure) for figure in scaled), default=0)
    return [_measured(*figure, decimals) for figure in scaled]


def against(value: float, limit: float) -> str:
    """Write a figure with two significant digits, or as many as it takes to tell it from its limit.

    Values close to 1, as cosines are, are written so that these digits are of what they lack.
    """
    if 0 < abs(value) < 1e-4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"
    lacking = 1 - value
    if 0 < lacking < 0.1:
        decimals = decimals_for(lacking, 2 if lacking > 1e-4 else 1)
    else:
        decimals = decimals_for(value, 2)
    return fixed(value, _telling(value, limit, decimals))


def percent(fraction: float | None) -> str:
    """Write a fraction as a percentage with one decimal, without the sign."""
    return NOTHING if fraction is None else fixed(100 * fraction, 1)


def byte_unit(values: Iterable[int]) -> Unit:
    """Return the largest unit of bytes in which no value of a column falls below 1."""
    return _unit(values, BYTE_UNITS)


def count_unit(values: Iterable[int]) -> Unit:
    """Return the largest power of a thousand in which no value of a column falls below 1."""
    return _unit(values, COUNT_UNITS)


def duration(seconds: float) -> str:
    """Write a time span in seconds, or in minutes and seconds from two minutes on."""
    if seconds < 120:
        return f"{significant(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _unit(values: Iterable[int], units: tuple[tuple[str, int], ...]) -> Unit:
    smallest = min((value for value in values if value > 0), default=1)
    return Unit(*[unit for unit in units if unit[1] <= smallest or unit[1] == 1][-1])


def _measured(value: float, low: float, high: float, decimals: int) -> Measured:
    return Measured(fixed(value, decimals), fixed(low, decimals), fixed(high, decimals))


def _deserved(value: float, low: float, high: float) -> int:
    half = f"{(high - low) / 2:.0e}"
    if high <= low:
        return decimals_for(value, 3)
    return decimals_for(float(half), 2 if half.startswith("1") else 1)


def _telling(value: float, limit: float, decimals: int) -> int:
    """Decimals, at least those given, with which a value does not read as its limit."""
    while decimals < MOST_DECIMALS and value != limit and fixed(value, decimals) == fixed(limit, decimals):
        decimals += 1
    return decimals
