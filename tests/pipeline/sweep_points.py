"""Points that are built in no time, here and on workers: figures that follow from the settings."""

from __future__ import annotations

import os
import time

from pipeline.sweep.document import Outcome, PointResult
from pipeline.sweep.point import Job


def outcome_of(job: Job, *results: PointResult, error: str | None = None) -> Outcome:
    point = job.point
    return Outcome(
        name=point.name,
        labels=dict(point.labels),
        overrides=dict(point.overrides),
        state="failed" if error else "done",
        error=error,
        seconds=0.1,
        stages_ran=1,
        results=list(results),
    )


def result(accuracy: float, latency_ms: float | None, size_bytes: int, target: str = "t") -> PointResult:
    return PointResult(
        target=target,
        variant="student int8",
        precision="int8",
        accuracy=accuracy,
        accuracy_interval=(max(0.0, accuracy - 0.01), min(1.0, accuracy + 0.01)),
        images=100,
        test_accuracy=accuracy,
        test_accuracy_interval=(max(0.0, accuracy - 0.01), min(1.0, accuracy + 0.01)),
        latency_ms=latency_ms,
        latency_interval_ms=None if latency_ms is None else (latency_ms, latency_ms),
        verdict=None if latency_ms is None else "stable",
        size_bytes=size_bytes,
        machine="a CPU",
    )


def by_share(job: Job, listener: object = None) -> Outcome:
    """The more channels, the more accurate, slow and large; more than all of them is an error."""
    share = job.point.overrides["student.macs"]
    if share > 1:
        return outcome_of(job, error="more than there is\n  where: student.macs")
    return outcome_of(job, result(0.5 + share / 2, 10 * share, round(1000 * share)))


def slowly(job: Job) -> Outcome:
    """Leave a mark of this process, then take a while."""
    job.output.mkdir(parents=True, exist_ok=True)
    (job.output / str(os.getpid())).touch()
    time.sleep(1.0)
    return by_share(job)
