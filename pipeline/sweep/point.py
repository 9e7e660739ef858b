"""One point of a sweep: a build of its own, wherever it runs. It never raises what a user can mend."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.record import Record
from pipeline.report import load
from pipeline.run import Listener
from pipeline.session import Session
from pipeline.stage import Ref, Stage
from pipeline.sweep.document import Outcome, PointResult
from targets.errors import EdgewrightError


@dataclass(frozen=True)
class Point:
    """What one build of a sweep differs in.

    Args:
        name: unique in the sweep, used in file names.
        labels: axis → what was chosen along it, in words.
        overrides: dotted key → value, in the order they are put in.
    """

    name: str
    labels: Mapping[str, str]
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A point with all that is needed to build it on any machine that sees the same folders.

    Args:
        point: what differs.
        build: the build file, absolute.
        sweep: name of the sweep.
        output: folder of the point's results, absolute.
        allow_code: the build file may name Python code.
    """

    point: Point
    build: Path
    sweep: str
    output: Path
    allow_code: bool


def build_point(job: Job, listener: Listener | None = None) -> Outcome:
    """Build a point and say what came of it, or why it failed."""
    begun = time.monotonic()
    own = {"project.name": f"{job.sweep}.{job.point.name}", "project.output": str(job.output)}
    session: Session | None = None
    results: list[PointResult] = []
    error: EdgewrightError | None = None
    try:
        session = Session(job.build, job.allow_code, listener, {**job.point.overrides, **own})
        session.build()
        results = _results(session, load(job.output / "report.json"))
    except EdgewrightError as failure:
        error = failure
    return Outcome(
        name=job.point.name,
        labels=dict(job.point.labels),
        overrides=dict(job.point.overrides),
        state="failed" if error else "done",
        error=str(error) if error else None,
        seconds=round(time.monotonic() - begun, 1),
        stages_ran=len(session.runner.ran) if session else 0,
        results=results,
    )


def _results(session: Session, record: Record) -> list[PointResult]:
    """What ships of a build, scored on the select split: the test split is not for choosing by."""
    shipped = [(target.name, product) for target in record.targets for product in target.products]
    estimated = [(built.target, built.variant) for built in record.built if built.role == "product"]
    wanted = {f"evaluate {target} {variant}": (target, variant) for target, variant in shipped}
    wanted |= {f"estimate {target} {variant}": (target, variant) for target, variant in estimated}
    stages = list(_on_select(session.stages(), wanted, session.request.splits))
    session.runner.run(stages)
    found = []
    for stage in stages:
        entry = session.runner.entries[stage.name]
        accuracy = json.loads((entry.out / "accuracy.json").read_text(encoding="utf-8"))
        target, variant = wanted[stage.name.removesuffix(" on select")]
        found.append(_result(record, target, variant, accuracy))
    return found


def _on_select(stages: Sequence[Stage], wanted: Mapping[str, Any], splits: str) -> Iterator[Stage]:
    for stage in stages:
        if stage.name in wanted:
            settings = {**stage.settings, **({"examples": 0} if "examples" in stage.settings else {})}
            inputs = {**stage.inputs, "test": Ref(splits, "select")}
            yield replace(stage, name=f"{stage.name} on select", inputs=inputs, settings=settings)


def _result(record: Record, target: str, variant: str, accuracy: Mapping[str, Any]) -> PointResult:
    chosen = {
        "target": target,
        "variant": variant,
        "accuracy": accuracy["top1"],
        "accuracy_interval": accuracy["top1_interval"],
        "images": accuracy["images"],
    }
    for result in record.results:
        if (result.target, result.variant) == (target, variant):
            environment = record.environments.get(target)
            return PointResult(
                **chosen,
                precision=result.precision,
                test_accuracy=result.accuracy.top1,
                test_accuracy_interval=result.accuracy.top1_interval,
                latency_ms=result.latency.median_ms,
                latency_interval_ms=result.latency.median_interval_ms,
                verdict=result.latency.verdict,
                size_bytes=result.engine.size_bytes,
                machine=environment.facts.get("cpu_model") if environment else None,
            )
    built = next(each for each in record.built if (each.target, each.variant) == (target, variant))
    return PointResult(
        **chosen,
        precision=built.precision,
        test_accuracy=built.estimate.top1,
        test_accuracy_interval=built.estimate.top1_interval,
        size_bytes=built.engine.size_bytes if built.engine else None,
        obstacle=built.obstacle,
    )
