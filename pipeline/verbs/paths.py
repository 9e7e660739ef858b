"""`edgewright paths`: which channels serve which class, and networks cut to some classes in seconds."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.disk import explained
from pipeline.measured import Paths
from pipeline.report import render_paths
from pipeline.report.numbers import percent
from pipeline.run import Listener
from pipeline.session import Session
from pipeline.verbs.table import aligned
from pipeline.wiring.paths import CUSTOMISED, customise_stages, path_stages

FILES = {
    "plan.json": (CUSTOMISED, "plan.json"),
    "task.json": (CUSTOMISED, "task.json"),
    "facts.json": (CUSTOMISED, "facts.json"),
    "weights.safetensors": (CUSTOMISED, "weights.safetensors"),
    "model.onnx": (f"simplify {CUSTOMISED}", "model.onnx"),
}


@dataclass(frozen=True)
class Wanted:
    """A network for some classes.

    Args:
        classes: names; none asks for no network.
        other: everything else is one more output.
        share: of a class's mass its path holds in the last layer; by default as of the build.
        macs: share of the teacher's multiply-accumulates; by default the classes' paths stay whole.
    """

    classes: Sequence[str] = ()
    other: bool = False
    share: float | None = None
    macs: float | None = None


@dataclass(frozen=True)
class Traced:
    """What was found.

    Args:
        project: name of the build.
        paths: paths.json.
        customised: facts.json of the network for some classes, if one was asked for.
        files: name → file to be handed over.
    """

    project: str
    paths: Mapping[str, Any]
    customised: Mapping[str, Any] | None
    files: Mapping[str, Path]

    def document(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {"paths": self.paths, "customised": self.customised}


def trace_build(build_file: Path, wanted: Wanted, allow_code: bool, listener: Listener) -> Traced:
    """Score the teacher's channels class by class, and cut a network if one is wanted.

    Scores are kept: a second set of classes looks at no gradient again.

    Args:
        build_file: names the network and the data.
        wanted: classes to cut the network to.
        allow_code: the build file may name Python code.
        listener: told about the stages.

    Raises:
        ConfigError: the build starts from an ONNX file, or a class is not known.
        EdgewrightError: what a stage raised; finished stages are kept.
    """
    session = Session(build_file, allow_code, listener)
    session.need_torch_model("paths are traced by gradients, which an ONNX file has not")
    session.check()
    stages = list(path_stages(session.request))
    if wanted.classes:
        stages += customise_stages(session.request, wanted.classes, wanted.other, wanted.share, wanted.macs)
    entries = session.run_only(*(stage.name for stage in stages), beside=stages)
    files = {"path_scores.npz": entries["path scores"].out / "path_scores.npz"}
    files["paths.json"] = entries["paths"].out / "paths.json"
    customised = None
    if wanted.classes:
        files |= {name: entries[stage].out / artefact for name, (stage, artefact) in FILES.items()}
        customised = _read(files["facts.json"])
    return Traced(session.settings.project.name, _read(files["paths.json"]), customised, files)


def write_paths(found: Traced, folder: Path) -> None:
    """Write paths.html and every file that was made.

    Raises:
        StoreError: the folder cannot be written.
    """
    paths = Paths.model_validate(found.paths)
    render_paths(paths, found.project, importlib.metadata.version("edgewright"), folder)
    with explained(folder):
        for name, file in found.files.items():
            part = folder / f".{name}.part"
            shutil.copyfile(file, part)
            part.replace(folder / name)


def paths_text(found: Traced) -> str:
    """A row for every layer, whether customising pays, and what was cut."""
    rows = [["layer", "channels", "on a class's path", "mean exclusiveness"]]
    for layer in found.paths["layers"]:
        apart, classes = layer["exclusiveness"], len(layer["sizes"])
        mean = sum(map(sum, apart)) / max(classes * (classes - 1), 1)
        sizes = f"{min(layer['sizes'])} to {max(layer['sizes'])}"
        rows.append([layer["layer"], str(layer["channels"]), sizes, f"{percent(mean)} %"])
    facts = found.customised
    lines = [*aligned(rows), "", found.paths["words"] if facts is None else facts["words"]]
    if facts is not None:
        lines.append(
            f"cut to {percent(facts['macs'] / facts['macs_before'])} % of the operations; accuracy on the "
            f"select split {percent(facts['select_top1'])} % without training, before the cut "
            f"{percent(facts['teacher_select_top1'])} %"
        )
    return "\n".join(lines)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
