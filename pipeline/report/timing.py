"""How the latencies of a target are spread: a panel and a row for each variant."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.measured import Latency
from pipeline.report.canvas import Naming
from pipeline.report.numbers import NOTHING, percent, significant
from pipeline.report.results import TargetResults, Variant
from pipeline.report.spread import spread

TOO_FEW = "too few samples"
# The axis of a plot reaches this share of the samples and, beyond them, this share of their range.
SHOWN = 0.98
ROOM = 0.35


@dataclass(frozen=True)
class Timing:
    """One variant's timing, in the units of the table's columns."""

    variant: Variant
    plot: str
    late: str
    samples: str
    p90_ms: str
    p99_ms: str
    min_ms: str
    max_ms: str
    variation_percent: str
    warmup_s: str
    verdict: str
    stable: bool
    reasons: list[str]


def timings(results: TargetResults) -> list[Timing]:
    """Return the timing of each variant of a target."""
    return [
        _timing(variant, f"{results.anchor}-samples-{number}", results.target.name)
        for number, variant in enumerate(results.variants, 1)
    ]


def _timing(variant: Variant, name: str, target: str) -> Timing:
    latency = variant.result.latency
    return Timing(
        variant=variant,
        plot=_plot(variant, name, target),
        late=_late(latency),
        samples=f"{latency.samples:,}",
        p90_ms=_percentile(latency.p90_ms),
        p99_ms=_percentile(latency.p99_ms),
        min_ms=significant(latency.min_ms),
        max_ms=significant(latency.max_ms),
        variation_percent=percent(latency.coefficient_of_variation),
        warmup_s=significant(latency.warmup_s, 2),
        verdict=latency.verdict or NOTHING,
        stable=latency.verdict in (None, "stable"),
        reasons=latency.reasons,
    )


def _plot(variant: Variant, name: str, target: str) -> str:
    latency = variant.result.latency
    if not latency.samples_ms:
        return ""
    description = (
        f"{latency.samples:,} samples between {significant(latency.min_ms)} and "
        f"{significant(latency.max_ms)} ms, median {variant.median} ms."
    )
    naming = Naming(name, f"Latency of {variant.name} on {target}", description)
    return spread(latency, _ceiling(latency), variant.mark, naming)


def _ceiling(latency: Latency) -> float:
    """Return the top of the plot's axis, so that a few late samples do not flatten all the others."""
    ordered = sorted(latency.samples_ms)
    most = ordered[math.ceil(SHOWN * len(ordered)) - 1]
    return most + ROOM * (most - ordered[0])


def _late(latency: Latency) -> str:
    """Say how many samples lie above the axis, if any do."""
    ceiling = _ceiling(latency) if latency.samples_ms else math.inf
    late = sum(sample > ceiling for sample in latency.samples_ms)
    up_to = f"up to {significant(latency.max_ms)}\u00a0ms"
    return f"{late} of {latency.samples:,} samples lie above, {up_to}" if late else ""


def _percentile(value: float | None) -> str:
    return TOO_FEW if value is None else significant(value)
