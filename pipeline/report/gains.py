"""What each step on a network's way cost and gained."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.measured import Gain
from pipeline.record import Record, Result
from pipeline.report.numbers import NOTHING, Measured, byte_unit, duration, fixed, measured


@dataclass(frozen=True)
class After:
    """What a step came to: accuracy in percent, the engine's size, milliseconds."""

    accuracy: str
    size: str
    median: str


@dataclass(frozen=True)
class GainRow:
    """One step, in the units of the table's columns."""

    gain: Gain
    cost: str
    after: After
    accuracy: str
    accuracy_interval: str
    accuracy_kind: str
    size: str
    size_kind: str
    speedup: Measured
    speedup_kind: str


def rows(record: Record, target: str) -> list[GainRow]:
    """Return the steps of a target, in the order they were made."""
    return [_row(gain, record) for gain in record.gains if gain.target == target]


def _row(gain: Gain, record: Record) -> GainRow:
    low, high = gain.speedup_interval
    kind = "win" if low > 1 else "loss" if high < 1 else "tie"
    before, after = (_result(record, gain.target, variant) for variant in (gain.before, gain.after))
    unit = byte_unit([after.engine.size_bytes])
    change = gain.size_change_bytes / max(before.engine.size_bytes, 1)
    return GainRow(
        gain=gain,
        cost=duration(gain.seconds) if gain.seconds else NOTHING,
        after=After(
            accuracy=fixed(100 * after.accuracy.top1, 2),
            size=f"{unit.write(after.engine.size_bytes)} {unit.name}",
            median=measured(after.latency.median_ms, *after.latency.median_interval_ms).value,
        ),
        accuracy=_points(gain.accuracy_change),
        accuracy_interval=_interval(gain),
        accuracy_kind=_accuracy_kind(gain),
        size=f"{_signed(100 * change, 0)} %",
        size_kind="win" if change < 0 else "loss" if change > 0 else "tie",
        speedup=measured(gain.speedup, low, high, apart_from=None if kind == "tie" else 1.0),
        speedup_kind=kind,
    )


def _result(record: Record, target: str, variant: str) -> Result:
    return next(each for each in record.results if (each.target, each.variant) == (target, variant))


def _accuracy_kind(gain: Gain) -> str:
    """A change is one only where its whole interval lies on one side of 0."""
    if gain.accuracy_interval is None:
        return "tie"
    low, high = gain.accuracy_interval
    return "win" if low > 0 else "loss" if high < 0 else "tie"


def _interval(gain: Gain) -> str:
    if gain.accuracy_interval is None:
        return ""
    low, high = gain.accuracy_interval
    return f"{_points(low)} to {_points(high)}"


def _points(share: float) -> str:
    return _signed(100 * share, 2)


def _signed(value: float, decimals: int) -> str:
    text = fixed(value, decimals)
    return (
        text.replace("-", "−")
        if text.startswith("-")
        else f"+{text}"
        if float(text.replace(",", ""))
        else text
    )
