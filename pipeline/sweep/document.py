"""sweep.json: what came of every point of a sweep, and which of them nothing else beats.

Its JSON schema is published as docs/schema/sweep.schema.json (`edgewright sweep --schema` prints it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field

from pipeline.measured import Fraction, Interval, Part, Verdict

SWEEP_SCHEMA: Literal["edgewright.sweep/1"] = "edgewright.sweep/1"


class PointResult(Part):
    """One engine that a point ships."""

    target: str
    variant: str
    precision: str
    accuracy: Fraction = Field(description="on the select split: what points are chosen by")
    accuracy_interval: tuple[Fraction, Fraction] = Field(description="95 % Wilson score interval")
    images: int = Field(description="of the select split")
    test_accuracy: Fraction = Field(description="on the test split: not to be chosen by")
    test_accuracy_interval: tuple[Fraction, Fraction]
    latency_ms: float | None = Field(default=None, description="median; null where the engine was not run")
    latency_interval_ms: Interval | None = None
    verdict: Verdict | None = Field(default=None, description="of the timing")
    size_bytes: int | None = Field(default=None, description="of the engine; null where there is none")
    machine: str | None = Field(default=None, description="CPU the engine was timed on")
    obstacle: str | None = Field(default=None, description="why it was not run")
    front: bool = Field(
        default=False,
        description="no other point of this target is at least as good in accuracy, latency and size",
    )


class Outcome(Part):
    """One point of the sweep."""

    name: str
    labels: dict[str, str] = Field(description="axis → what was chosen along it")
    overrides: dict[str, Any] = Field(description="dotted key of build.toml → value")
    state: Literal["done", "failed"]
    error: str | None = Field(description="what was wrong, where, and how to mend it")
    seconds: float = Field(description="wall time of the build when it last ran; least where all was reused")
    stages_ran: int = Field(description="stages that were not there yet")
    results: list[PointResult]

    @property
    def reason(self) -> str:
        """What was wrong, in one line; empty where nothing was."""
        return " ".join((self.error or "").partition("\n  where:")[0].split())


class Sweep(Part):
    """A whole sweep."""

    schema_: Literal["edgewright.sweep/1"] = Field(default=SWEEP_SCHEMA, alias="schema")
    name: str
    build: str = Field(description="the build file, relative to the sweep file")
    edgewright_version: str
    finished_at: str = Field(description="UTC, ISO 8601; of the latest point")
    planned: int = Field(description="points there are to be in all")
    objectives: list[str] = Field(description="what a search traded off; empty for a grid")
    points: list[Outcome]


def with_fronts(points: Sequence[Outcome]) -> list[Outcome]:
    """Mark, target by target, the results that no other one beats."""
    everything = [result for point in points for result in point.results]
    return [
        point.model_copy(
            update={
                "results": [
                    result.model_copy(update={"front": not _beaten(result, everything)})
                    for result in point.results
                ]
            }
        )
        for point in points
    ]


def costs(result: PointResult) -> tuple[float, float, float]:
    """What is to be small: error, latency, size; infinite where it is not known."""
    latency = float("inf") if result.latency_ms is None else result.latency_ms
    size = float("inf") if result.size_bytes is None else float(result.size_bytes)
    return -result.accuracy, latency, size


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere worse and somewhere better; less is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _beaten(result: PointResult, others: Iterable[PointResult]) -> bool:
    own = costs(result)
    return any(other.target == result.target and dominates(costs(other), own) for other in others)


def to_json(sweep: Sweep) -> str:
    """Return sweep.json."""
    return json.dumps(sweep.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema of sweep.json."""
    schema = Sweep.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
