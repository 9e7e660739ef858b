"""`edgewright scores`: which channels the students would keep, before any of them is trained."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.disk import explained, write_whole
from pipeline.products import students_of
from pipeline.record import Structure
from pipeline.report import render_scores
from pipeline.report.numbers import percent
from pipeline.report.structure import budget_line
from pipeline.run import Listener
from pipeline.session import Session
from pipeline.slimming import structure
from pipeline.verbs.table import aligned
from targets.errors import ConfigError


@dataclass(frozen=True)
class Scored:
    """What was decided of a build's students.

    Args:
        project: its name.
        scores: scores.json.
        plans: student → plan.json.
        structure: both, as a record has them.
    """

    project: str
    scores: Mapping[str, Any]
    plans: Mapping[str, Mapping[str, Any]]
    structure: Structure

    def document(self) -> dict[str, Any]:
        """Scores and plans as JSON values."""
        return {"scores": self.scores, "plans": self.plans}


def score_build(build_file: Path, allow_code: bool, listener: Listener) -> Scored:
    """Decide the structure of every student of a build file, running what that takes.

    Args:
        build_file: names the network, the data and the budgets.
        allow_code: it may name Python code.
        listener: told about the stages.

    Raises:
        ConfigError: the build file has no [student], so nothing is cut.
        EdgewrightError: what a stage raised; finished stages are kept.
    """
    session = Session(build_file, allow_code, listener)
    students = {student: f"structure {student}" for student in students_of(session.settings)}
    if not students:
        raise ConfigError(
            "there is no student to decide a structure for",
            where=str(build_file),
            mend="add a [student] table with a budget; docs/build-file.md lists its keys",
        )
    session.check()
    entries = session.run_only("scores", *students.values())
    scores = _read(entries["scores"].out / "scores.json")
    plans = {student: _read(entries[stage].out / "plan.json") for student, stage in students.items()}
    return Scored(session.settings.project.name, scores, plans, structure(scores, plans, {}))


def write_scores(found: Scored, folder: Path) -> None:
    """Write scores.json, a plan for every student and scores.html.

    Raises:
        StoreError: the folder cannot be written.
    """
    texts = {"scores.json": found.scores} | {
        f"{student}.plan.json": plan for student, plan in found.plans.items()
    }
    version = importlib.metadata.version("edgewright")
    render_scores(found.structure, found.project, version, folder)
    with explained(folder):
        for name, document in texts.items():
            write_whole(folder / name, json.dumps(document, indent=1) + "\n")


def scores_text(structure: Structure) -> str:
    """A row for every group: its width, what each student keeps and what is lost with the rest."""
    rows = [["group", "width", *(student.network for student in structure.students), "layers"]]
    for place, group in enumerate(structure.groups):
        kept = [student.groups[place] for student in structure.students]
        cells = [f"{len(each.channels)}, lost {percent(each.lost)} %" for each in kept]
        rows.append([group.leader, str(group.width), *cells, " ".join(group.members)])
    order = f"channels in the order of {structure.criterion}"
    return "\n".join([order, "", *aligned(rows), "", *_notes(structure)])


def _notes(structure: Structure) -> Iterator[str]:
    for student in structure.students:
        if student.budget:
            yield f"{student.network}: {budget_line(student.budget).words}"
    for layer in structure.uncut:
        yield f"left whole: {layer.layer}, {layer.reason}"
    for warning in structure.warnings:
        yield f"warning: {warning}"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
