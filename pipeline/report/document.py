"""report.json: the record as one JSON document, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.record import RECORD_SCHEMA, Record, Structure
from targets.datafile import read_text
from targets.errors import ConfigError, StageError

LARGEST_RECORD = 256 << 20
MOST_FAULTS_SHOWN = 5


def to_json(record: Record) -> str:
    """Return the record as JSON with sorted keys and a newline at the end.

    Raises:
        StageError: a figure is NaN or infinite, which JSON cannot say.
    """
    document = record.model_dump(mode="json", by_alias=True)
    try:
        return _dump(document)
    except ValueError as error:
        raise StageError(
            "the build record holds a figure that is not a number",
            where="report.json",
            mend="run the stage that made it again; `edgewright explain` names the stages",
        ) from error


def json_schema() -> str:
    """Return the JSON schema of report.json, as published in docs/schema/record.schema.json."""
    schema = Record.model_json_schema(by_alias=True)
    return _dump({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def load(path: Path) -> Record:
    """Read a report.json back.

    Raises:
        ConfigError: unreadable, not JSON, another schema version, missing, unknown or impossible fields, or
            parts that do not fit together.
    """
    document = _read(path)
    found = document.get("schema") if isinstance(document, dict) else None
    if found != RECORD_SCHEMA:
        said = "it names no schema" if found is None else f"its schema is {found!r}"
        raise ConfigError(
            f"not a build record of schema {RECORD_SCHEMA!r}: {said}",
            where=str(path),
            mend="build again with this version of edgewright, or read it with the version that wrote it",
        )
    try:
        record = Record.model_validate(document)
    except ValidationError as error:
        raise ConfigError(
            f"the build record does not fit its schema:\n{_faults(error)}",
            where=str(path),
            mend="use a report.json as edgewright wrote it, or build again",
        ) from error
    check(record, where=str(path))
    return record


def check(record: Record, where: str = "build record") -> None:
    """See to it that the parts of a record fit together.

    Raises:
        ConfigError: a result, speed-up or product names something the record does not hold, a confusion
            matrix does not have one row and one column an output, or a student keeps channels that its
            groups do not have.
    """
    faults = [*_broken_references(record), *_misshapen(record)]
    if faults:
        raise ConfigError(
            f"the build record contradicts itself: {'; '.join(faults[:MOST_FAULTS_SHOWN])}",
            where=where,
            mend="use a report.json as edgewright wrote it, or build again",
        )


def _broken_references(record: Record) -> list[str]:
    targets = {target.name for target in record.targets}
    networks = {network.name for network in record.networks}
    engines = {(result.target, result.variant) for result in record.results}
    wanted = [(target.name, product) for target in record.targets for product in target.products]
    wanted += [(result.target, speedup.baseline) for result in record.results for speedup in result.speedups]
    faults = [f"no result of {variant!r} on {target!r}" for target, variant in wanted]
    faults = [fault for fault, pair in zip(faults, wanted, strict=True) if pair not in engines]
    faults += [f"no target {name!r}" for name in sorted({name for name, _ in engines} - targets)]
    faults += [f"no target {name!r}" for name in sorted(set(record.environments) - targets)]
    students = record.structure.students if record.structure else []
    used = {result.network for result in record.results} | {built.network for built in record.built}
    used |= {student.network for student in students}
    return faults + [f"no network {name!r}" for name in sorted(used - networks)]


def _misshapen(record: Record) -> list[str]:
    outputs = len(record.task.outputs)
    faults = _misfits(record.structure) if record.structure else []
    for result in record.results:
        matrix = result.accuracy.confusion
        if len(matrix) != outputs or any(len(row) != outputs for row in matrix):
            faults.append(f"confusion matrix of {result.variant!r} is not {outputs} × {outputs}")
        if [score.label for score in result.accuracy.classes] != record.task.outputs:
            faults.append(f"classes of {result.variant!r} are not the outputs of the task")
    return faults


def _misfits(structure: Structure) -> list[str]:
    """What a student keeps must be channels of the groups there are, of each of them."""
    widths = {group.leader: group.width for group in structure.groups}
    faults = []
    for student in structure.students:
        if sorted(kept.leader for kept in student.groups) != sorted(widths):
            faults.append(f"groups of {student.network!r} are not those that were scored")
            continue
        for kept in student.groups:
            if kept.channels != sorted(set(kept.channels) & set(range(widths[kept.leader]))):
                whose = f"{kept.leader!r} kept by {student.network!r}"
                faults.append(f"channels of {whose} are not its own, each once and rising")
    return faults


def _read(path: Path) -> Any:
    try:
        return json.loads(read_text(path, LARGEST_RECORD), parse_constant=_refuse)
    except OSError as error:
        raise ConfigError(
            f"cannot read the build record: {error.strerror or error}",
            where=str(path),
            mend="give the report.json in the output folder of a finished build",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"the build record is not JSON: {error}",
            where=str(path),
            mend="give a report.json as edgewright wrote it; `edgewright build` hands it over again",
        ) from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number JSON knows")


def _faults(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_input=False)
    lines = [f"    {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
    more = len(lines) - MOST_FAULTS_SHOWN
    return "\n".join(lines[:MOST_FAULTS_SHOWN] + ([f"    and {more} more"] if more > 0 else []))


def _dump(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
