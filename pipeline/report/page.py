"""Write the three files of a report, and the page of scores alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.disk import trouble
from pipeline.measured import Paths, Triage
from pipeline.record import Record, Structure
from pipeline.report.document import check, to_json
from targets.errors import StoreError

if TYPE_CHECKING:
    from jinja2 import Environment

MARKDOWN_SPECIAL = "\\`*_[]|#~"
HTML_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
MARKDOWN = str.maketrans({**{mark: f"\\{mark}" for mark in MARKDOWN_SPECIAL}, **HTML_SPECIAL})


def render(record: Record, folder: Path) -> None:
    """Write report.html, report.json and report.md; each is either the old file or the whole new one.

    Args:
        record: all that is shown; nothing else is read.
        folder: where the files go; made when missing.

    Raises:
        ConfigError: parts of the record do not fit together.
        StageError: a figure is NaN or infinite.
        StoreError: the folder cannot be written.
    """
    check(record)
    document = to_json(record)
    environment, context = _environment(), _context(record)
    _write(
        folder,
        {
            "report.html": environment.get_template("report.html.j2").render(context),
            "report.md": environment.get_template("report.md.j2").render(context),
            "report.json": document,
        },
    )


def render_scores(structure: Structure, project: str, edgewright_version: str, folder: Path) -> None:
    """Write scores.html: what scoring found and every student keeps, before anything is built.

    Args:
        structure: all that is shown.
        project: name of what would be built.
        edgewright_version: of the program that scored.
        folder: where the file goes; made when missing.

    Raises:
        StoreError: the folder cannot be written.
    """
    from pipeline.report.structure import view

    networks = ["teacher", *(student.network for student in structure.students)]
    shown = {"structure": view(structure, networks), "project": project}
    render_alone("scores", folder, shown | {"edgewright_version": edgewright_version})


def render_paths(paths: Paths, project: str, edgewright_version: str, folder: Path) -> None:
    """Write paths.html: critical paths of a network's classes.

    Args:
        paths: all that is shown.
        project: name of the build the network belongs to.
        edgewright_version: of the program that scored.
        folder: where the file goes; made when missing.

    Raises:
        StoreError: the folder cannot be written.
    """
    from pipeline.report.paths import view

    shown = {"paths": view(paths), "project": project}
    render_alone("paths", folder, shown | {"edgewright_version": edgewright_version})


def render_triage(triage: Triage, project: str, edgewright_version: str, folder: Path) -> None:
    """Write triage.html: what became of a network when one of its blocks was replaced.

    Args:
        triage: all that is shown.
        project: name of the build the network belongs to.
        edgewright_version: of the program that tried it.
        folder: where the file goes; made when missing.

    Raises:
        StoreError: the folder cannot be written.
    """
    from pipeline.report.triage import view

    shown = {"triage": view(triage), "project": project}
    render_alone("triage", folder, shown | {"edgewright_version": edgewright_version})


def render_trend(folder: Path, out: Path, edgewright_version: str) -> None:
    """Write trend.html: a series of builds.

    Args:
        folder: holds their records.
        out: where the file goes; made when missing.
        edgewright_version: of the program that draws.

    Raises:
        ConfigError: the records make no series.
        StoreError: the folder cannot be written.
    """
    from pipeline.report.trend import view

    render_alone("trend", out, {"trend": view(folder), "version": edgewright_version})


def render_alone(name: str, folder: Path, context: Mapping[str, Any]) -> None:
    """Write a page that is no part of a build's report."""
    _write(folder, {f"{name}.html": _environment().get_template(f"{name}.html.j2").render(context)})


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: name is None or ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = markdown
    return environment


def markdown(text: object) -> str:
    """Return text that stands for itself in a line or table cell of Markdown, and mentions nobody."""
    return " ".join(str(text).split()).translate(MARKDOWN)


def _context(record: Record) -> dict[str, Any]:
    from pipeline.report import (
        beside,
        gains,
        judgements,
        layers,
        paths,
        provenance,
        results,
        scores,
        structure,
        timing,
        triage,
    )
    from pipeline.report.wording import wording

    targets = results.all_targets(record)
    return {
        "record": record,
        "words": wording(record.data.labels),
        "targets": targets,
        "plots": {target.anchor: target.tradeoff() for target in targets},
        "judgements": judgements.lines(record),
        "beside": {target.anchor: beside.table(target) for target in targets},
        "gains": {target.anchor: gains.rows(record, target.target.name) for target in targets},
        "layer_times": {target.anchor: layers.tables(target) for target in targets},
        "bits": {target.anchor: layers.bits(target) for target in targets},
        "timings": {target.anchor: timing.timings(target) for target in targets},
        "recalls": {target.anchor: scores.recalls(target) for target in targets},
        "confusions": {
            (target.anchor, product.name): scores.confusion(product.result.accuracy)
            for target in targets
            for product in target.products
        },
        "networks": provenance.networks(record),
        "structure": record.structure
        and structure.view(record.structure, [network.name for network in record.networks]),
        "paths": record.paths and paths.view(record.paths),
        "triage": record.triage and triage.view(record.triage),
        "gates": provenance.gate_rows(record.gates),
        "gate_columns": [provenance.METRICS[metric][0] for metric in provenance.metric_columns(record.gates)],
        "gate_summary": provenance.gate_summary(record.gates),
        "gates_failed": any(not gate.passed for gate in record.gates),
        "stages": provenance.stage_rows(record),
        "stage_summary": provenance.stage_summary(record),
        "facts": {name: provenance.facts(machine) for name, machine in record.environments.items()},
        "readings": {name: provenance.readings(machine) for name, machine in record.environments.items()},
        "settings": provenance.settings_rows(record.project.settings),
        "splits": provenance.split_rows(record.data),
        "finished": provenance.moment(record.project.finished_at),
    }


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write every file beside its place first, then rename them all."""
    beside = {folder / f".{name}.{os.getpid()}.part": folder / name for name in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, place in beside.items():
            part.write_text(texts[place.name], encoding="utf-8")
        for part, place in beside.items():
            part.replace(place)
    except OSError as error:
        raise trouble(error, folder) or StoreError(
            f"cannot write the report: {error.strerror or error}",
            where=str(error.filename or folder),
            mend="give a folder you may write to",
        ) from error
    finally:
        for part in beside:
            _discard(part)


def _discard(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        # A folder that cannot be written is reported already; what lies in it cannot be tidied either.
        return
