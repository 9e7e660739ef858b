"""What was measured beside latency: loading, memory, throughput, energy, and the steps around inference."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.measured import StepTime
from pipeline.report.numbers import NOTHING, Measured, fixed, measured, significant
from pipeline.report.results import TargetResults, Variant


@dataclass(frozen=True)
class BesideRow:
    """One variant, in the units of the table's columns."""

    variant: Variant
    load_ms: str
    first_ms: str
    peak_mib: str
    own_mib: str
    per_second: Measured | None
    millijoules: str
    above_idle: str


@dataclass(frozen=True)
class BesideTable:
    """All variants of a target; a column that nothing was measured for is left out.

    Args:
        rows: one a variant.
        memory: there are figures of memory.
        throughput: how many requests were under way, in words; empty without figures.
        energy: the sensor; empty without figures.
        steps: of one image beside inference, in words; empty without figures.
    """

    rows: list[BesideRow]
    memory: bool
    throughput: str
    energy: str
    steps: str


def table(results: TargetResults) -> BesideTable:
    """Return what was measured beside the latency of a target's variants."""
    found = [variant.result for variant in results.variants]
    loads = [result.throughput for result in found if result.throughput]
    sensors = [result.energy for result in found if result.energy]
    return BesideTable(
        rows=[_row(variant) for variant in results.variants],
        memory=any(result.memory for result in found),
        throughput=f"{loads[0].requests} requests under way, {loads[0].streams}" if loads else "",
        energy=sensors[0].sensor if sensors else "",
        steps=_spoken(results.target.steps),
    )


def _row(variant: Variant) -> BesideRow:
    result = variant.result
    memory, load, energy = result.memory, result.throughput, result.energy
    return BesideRow(
        variant=variant,
        load_ms=significant(result.latency.load_ms),
        first_ms=significant(result.latency.first_inference_ms),
        peak_mib=fixed(memory.peak_bytes / (1 << 20), 0) if memory else NOTHING,
        own_mib=fixed(memory.own_bytes / (1 << 20), 1) if memory else NOTHING,
        per_second=measured(load.per_second, *load.per_second_interval) if load else None,
        millijoules=significant(energy.millijoules) if energy else NOTHING,
        above_idle=significant(energy.above_idle_millijoules) if energy else NOTHING,
    )


def _spoken(steps: list[StepTime]) -> str:
    said = [f"{step.step}ing {measured(step.median_ms, *step.median_interval_ms)} ms" for step in steps]
    return " and ".join(said)
