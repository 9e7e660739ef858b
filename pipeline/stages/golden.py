"""golden: a few real images of the calibrate split, and what the model makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.onnxmodel.session import OnnxSession
from pipeline.stage import Context
from pipeline.stages.data import evenly, read_images, read_preprocess
from targets.batches import Tensors
from targets.metrics import class_scores

GOLDEN_SCHEMA = "edgewright.golden/1"
CANDIDATES = 128
FEWEST, MOST = 2, 16
LARGEST_INPUTS = 1 << 20


def choose(context: Context) -> None:
    """Choose images, and run the ONNX file on them as it is written. Artefact: golden, a folder.

    An engine has to come as close to these outputs as the build asks of engines of its precision. Images
    whose classes are a close call are left out, so that the class has to be the same for every one of them.
    """
    model = OnnxSession(context.inputs["model"])
    stored = evenly(read_images(context.inputs["calibrate"]), CANDIDATES)
    prepare = read_preprocess(context.inputs["preprocess"])
    candidates = {model.inputs[0].name: prepare(stored)}
    chosen = clearest(model(candidates), how_many(candidates))
    inputs = {name: array[chosen] for name, array in candidates.items()}
    folder = context.out / "golden"
    folder.mkdir()
    np.save(folder / "images.npy", stored[chosen])
    document = {
        "schema": GOLDEN_SCHEMA,
        "samples": len(chosen),
        "images": "images.npy",
        "preprocess": asdict(prepare),
        "inputs": _write(folder, "input", inputs),
        "outputs": _write(folder, "output", model(inputs)),
        "tolerance": {name: limit for name, limit in context.settings["limits"].items() if limit is not None},
    }
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    (folder / "golden.json").write_text(text, encoding="utf-8")


def how_many(inputs: Tensors) -> int:
    """How many samples to keep: as many as fit into a mebibyte, 2 to 16."""
    sample_bytes = sum(int(array[0].nbytes) for array in inputs.values())
    return max(FEWEST, min(MOST, LARGEST_INPUTS // sample_bytes))


def clearest(outputs: Tensors, count: int) -> NDArray[np.int64]:
    """Choose samples spread evenly over the half whose first class is furthest from the second.

    Args:
        outputs: name → [N, …].
        count: at most so many.

    Returns:
        indices, rising; all samples count as clear where no output is [N, classes].
    """
    name = class_scores(outputs)
    clear = np.arange(len(next(iter(outputs.values()))))
    if name:
        top = np.sort(np.asarray(outputs[name], np.float64), axis=1)
        margin = top[:, -1] - top[:, -2]
        clear = np.flatnonzero(margin >= np.median(margin))
    return np.asarray(evenly(clear, count), np.int64)


def _write(folder: Path, kind: str, arrays: Tensors) -> list[dict[str, Any]]:
    """Write arrays [N, …], in the model's order; names of tensors are none for files."""
    described = []
    for number, (name, array) in enumerate(arrays.items()):
        file = f"{kind}-{number}.npy"
        np.save(folder / file, array)
        described.append({"name": name, "file": file, "dtype": array.dtype.name, "shape": list(array.shape)})
    return described
