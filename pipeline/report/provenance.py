"""Where the results came from: networks, gates, stages, machines, settings, digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pipeline.record import DataSource, Environment, Gate, GateCheck, Network, Record
from pipeline.report.numbers import NOTHING, against, byte_unit, count_unit, duration, fixed, significant

METRICS = {
    "max_abs": ("Largest difference", "≤"),
    "relative_l2": ("Relative L2", "≤"),
    "cosine": ("Cosine", "≥"),
    "top1_agreement": ("Top-1 agreement", "≥"),
}
# Last words of a machine's readings that are units, and words that are written in capitals.
UNITS = {"mhz": "MHz", "mib": "MiB", "c": "°C", "1min": "1 min"}
ACRONYMS = {"cpu": "CPU", "smt": "SMT"}


@dataclass(frozen=True)
class NetworkRow:
    """One network, in the units of the table's columns."""

    network: Network
    parameters: str
    macs: str
    onnx_size: str
    input_shape: str


@dataclass(frozen=True)
class NetworkTable:
    """All networks and the units of the columns."""

    rows: list[NetworkRow]
    parameter_unit: str
    mac_unit: str
    size_unit: str


@dataclass(frozen=True)
class Figure:
    """A figure of a gate and its limit, as in "0.012" and "≤ 0.05"."""

    value: str
    limit: str
    passed: bool


@dataclass(frozen=True)
class GateRow:
    """One gate; `figures` has an entry for every column of the table, None where it was not checked."""

    gate: Gate
    figures: list[Figure | None]


@dataclass(frozen=True)
class StageRow:
    """What one stage cost; `length` is its share of the longest stage, in percent."""

    name: str
    seconds: str
    length: float
    memory: str
    finished: str


@dataclass(frozen=True)
class Reading:
    """One state of a machine, before and after the measurements."""

    name: str
    before: str
    after: str

    @property
    def changed(self) -> bool:
        """Whether it is another one afterwards."""
        return self.before != self.after


def networks(record: Record) -> NetworkTable:
    """Return the table of networks."""
    parameters = count_unit(network.parameters for network in record.networks)
    macs = count_unit(network.macs for network in record.networks)
    sizes = byte_unit(network.onnx_size_bytes for network in record.networks)
    rows = [
        NetworkRow(
            network=network,
            parameters=parameters.write(network.parameters),
            macs=macs.write(network.macs),
            onnx_size=sizes.write(network.onnx_size_bytes),
            input_shape=" × ".join("any" if size < 0 else str(size) for size in network.input_shape),
        )
        for network in record.networks
    ]
    return NetworkTable(rows, parameters.name, macs.name, sizes.name)


def metric_columns(gates: list[Gate]) -> list[str]:
    """Return the metrics that at least one gate checked, in a fixed order."""
    checked = {check.metric for gate in gates for check in gate.checks}
    return [metric for metric in METRICS if metric in checked]


def gate_rows(gates: list[Gate]) -> list[GateRow]:
    """Return the rows of the table of gates, failed ones first."""
    columns = metric_columns(gates)
    rows = []
    for gate in sorted(gates, key=lambda gate: gate.passed):
        checks: dict[str, Figure] = {check.metric: _figure(check) for check in gate.checks}
        rows.append(GateRow(gate, [checks.get(metric) for metric in columns]))
    return rows


def gate_summary(gates: list[Gate]) -> str:
    """Return how many gates passed, and the names of those that did not, in one sentence."""
    failed = [gate.name for gate in gates if not gate.passed]
    if not gates:
        return "No gates were checked."
    if not failed:
        return f"All {len(gates)} gates passed." if len(gates) > 1 else "The one gate passed."
    return f"{len(failed)} of {len(gates)} gates failed: {', '.join(failed)}."


def stage_rows(record: Record) -> list[StageRow]:
    """Return what each stage cost, in the order of the build."""
    longest = max((stage.seconds for stage in record.stages), default=0.0) or 1.0
    return [
        StageRow(
            name=stage.name,
            seconds=significant(stage.seconds, 2),
            length=round(100 * stage.seconds / longest, 2),
            memory=fixed(stage.peak_memory_bytes / (1 << 20), 0) if stage.peak_memory_bytes else NOTHING,
            finished=moment(stage.finished_at),
        )
        for stage in record.stages
    ]


def stage_summary(record: Record) -> str:
    """Return what all stages cost together, in one sentence."""
    seconds = duration(sum(stage.seconds for stage in record.stages))
    return (
        f"{len(record.stages)} stages took {seconds} together."
        if record.stages
        else "No stages are recorded."
    )


def facts(environment: Environment) -> list[tuple[str, str]]:
    """Return the facts about a machine, each with its name in words."""
    return [(_spoken(name), value) for name, value in environment.facts.items()]


def readings(environment: Environment) -> list[Reading]:
    """Return the states of a machine, in the order they were read."""
    names = dict.fromkeys([*environment.before, *environment.after])
    before, after = environment.before, environment.after
    return [Reading(_spoken(name), before.get(name, NOTHING), after.get(name, NOTHING)) for name in names]


def settings_rows(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return settings as rows of a dotted key and a value; tables in a list are numbered from 0."""
    rows = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            rows += settings_rows(value, f"{name}.")
        else:
            rows.append(
                (
                    name,
                    value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
                )
            )
    return rows


def split_rows(data: DataSource) -> list[tuple[str, str, float]]:
    """Return each split's name, its images and its share of all of them in percent."""
    sizes = data.split_sizes
    whole = sum(sizes.values()) or 1
    return [(name, f"{size:,}", round(100 * size / whole, 2)) for name, size in sizes.items()]


def moment(text: str) -> str:
    """Write an ISO 8601 moment to the minute in UTC; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(timezone.utc)
    return parsed.strftime("%Y-%m-%d %H:%M UTC")


def _spoken(name: str) -> str:
    """Return a name like "memory_mib" in words: "memory, MiB"."""
    words = [ACRONYMS.get(word, word) for word in name.split("_")]
    unit = UNITS.get(words[-1])
    return f"{' '.join(words[:-1])}, {unit}" if unit and len(words) > 1 else " ".join(words)


def _figure(check: GateCheck) -> Figure:
    limit = f"{METRICS[check.metric][1]} {check.limit:g}"
    return Figure(against(check.value, check.limit), limit, check.passed)
