"""The repro folder a failing gate leaves: everything needed to see the difference again, and nothing else."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.onnxmodel.file import read_model, write_model
from pipeline.parity.divergence import Divergence, Piece
from pipeline.parity.sides import Compiled, Failure
from targets import metrics
from targets.batches import Tensors, sample_count

DESCRIPTION = "gate.json"
SCRIPTS = ("README.md", "reproduce.py")


def write_repro(failure: Failure, divergence: Divergence, folder: Path) -> None:
    """Write models, the worst samples, both sides' outputs, and a script that shows the difference.

    docs/gates.md lists the files. An older repro folder at the same place is replaced.

    Args:
        failure: what failed, with the samples to keep.
        divergence: where both sides part.
        folder: made if need be.

    Raises:
        OSError: the folder cannot be written.
        ModelError: a model cannot be read any more.
    """
    if (folder / DESCRIPTION).is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in (
        ("inputs", failure.inputs),
        ("reference", failure.expected),
        ("candidate", failure.found),
    ):
        write_npz(folder / f"{name}.npz", arrays)
    for name, side in (("reference", failure.reference), ("candidate", failure.candidate)):
        if side.model:
            write_model(read_model(side.model), folder / f"{name}.onnx")
    if divergence.piece:
        _write_piece(divergence.piece, folder / "piece")
    description = _describe(failure, divergence)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(metrics.__file__, folder / "metrics.py")
    _write_scripts(failure, divergence, folder)


def write_npz(path: Path, arrays: Tensors) -> None:
    """Write an .npz file; unlike numpy's own function it takes any tensor name and gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _write_piece(piece: Piece, folder: Path) -> None:
    folder.mkdir()
    write_model(piece.model, folder / "model.onnx")
    write_npz(folder / "inputs.npz", piece.inputs)
    write_npz(folder / "reference.npz", piece.expected)


def _describe(failure: Failure, divergence: Divergence) -> dict[str, Any]:
    return {
        "gate": failure.gate.model_dump(mode="json"),
        "found": divergence.reason,
        "engine": _engine(failure.candidate.compiled),
    }


def _engine(compiled: Compiled | None) -> dict[str, Any] | None:
    if compiled is None:
        return None
    engine = compiled.engine
    return {
        "toolchain": engine.toolchain,
        "version": engine.toolchain_version,
        "device": engine.device,
        "options": {**asdict(engine.options), "raw": dict(engine.options.raw)},
    }


def _write_scripts(failure: Failure, divergence: Divergence, folder: Path) -> None:
    environment = Environment(
        loader=PackageLoader("pipeline.parity", "repro_files"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    for name in SCRIPTS:
        text = environment.get_template(f"{name}.j2").render(
            gate=failure.gate,
            kept=sample_count(failure.inputs),
            reason=divergence.reason,
            piece=divergence.piece is not None,
            reference_model=failure.reference.model is not None,
            engine=_engine(failure.candidate.compiled),
        )
        (folder / name).write_text(text, encoding="utf-8")
