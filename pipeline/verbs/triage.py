"""`edgewright triage`: which blocks of the teacher one layer could stand for, and what that would save."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.disk import explained, write_whole
from pipeline.measured import Triage
from pipeline.report import render_triage
from pipeline.report.numbers import percent
from pipeline.run import Listener
from pipeline.session import Session
from pipeline.verbs.table import aligned
from pipeline.wiring.triage import triage_stages


@dataclass(frozen=True)
class Triaged:
    """What was found.

    Args:
        project: name of the build.
        triage: triage.json.
    """

    project: str
    triage: Mapping[str, Any]


def triage_build(build_file: Path, allow_code: bool, listener: Listener) -> Triaged:
    """Try every block of the teacher of a build file, running what that takes.

    Args:
        build_file: names the network, the data and the target milliseconds are measured on.
        allow_code: the build file may name Python code.
        listener: told about the stages.

    Raises:
        ConfigError: the build starts from an ONNX file, or no block can be tried.
        EdgewrightError: what a stage raised; finished stages are kept.
    """
    session = Session(build_file, allow_code, listener)
    session.need_torch_model("blocks are replaced and trained in torch, which an ONNX file is not")
    session.check()
    entries = session.run_only("triage", beside=list(triage_stages(session.request)))
    document = json.loads((entries["triage"].out / "triage.json").read_text(encoding="utf-8"))
    return Triaged(session.settings.project.name, document)


def write_triage(found: Triaged, folder: Path) -> None:
    """Write triage.html and triage.json.

    Raises:
        StoreError: the folder cannot be written.
    """
    triage = Triage.model_validate(found.triage)
    render_triage(triage, found.project, importlib.metadata.version("edgewright"), folder)
    with explained(folder):
        write_whole(folder / "triage.json", json.dumps(found.triage, indent=1) + "\n")


def triage_text(triage: Mapping[str, Any]) -> str:
    """A row for every block and start, the least critical block first."""
    rows = [["block", "start", "swapped", "local", "global", "epochs to 99 %", "Δms", "Δparameters"]]
    for row in triage["blocks"]:
        epochs = row["epochs_to_99"]
        rows.append(
            [row["block"], row["initialisation"]]
            + [percent(row[name]) for name in ("swapped", "local", "global")]
            + ["" if epochs is None else str(epochs)]
            + [f"{row['latency_change_ms']:+.3f}", f"{row['parameters_change']:+,}"]
        )
    pairs = [
        f"{' and '.join(pair['blocks'])} together: {percent(pair['measured'])} %, "
        f"by adding up {percent(pair['added'])} %"
        for pair in triage["pairs"]
    ]
    base = (
        f"accuracy on the {triage['split']} split in percent; the network as it was, after the same extra "
        f"epochs: {percent(triage['accuracy'])}; milliseconds on {triage['target']}"
    )
    return "\n".join([base, "", *aligned(rows), "", *pairs, *triage["notes"]])
