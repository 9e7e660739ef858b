"""observe, quantize: ranges seen once, QDQ models written for every convention."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from calibration.observations import Observations
from calibration.qdq import quantize
from calibration.ranges import collect
from pipeline.onnxmodel.file import describe, read_model
from pipeline.stage import Context
from pipeline.stages.data import evenly, read_preprocess, read_split
from targets.batches import CHUNK, batch_size
from targets.capability import QuantizationConvention


def observe(context: Context) -> None:
    """Run calibration images through the float model. Artefact: observations.npz."""
    path = context.inputs["model"]
    inputs = describe(read_model(path)).inputs
    images = evenly(read_split(context.inputs["calibrate"])[0], context.settings["samples"])
    preprocess = read_preprocess(context.inputs["preprocess"])
    size = batch_size(inputs, CHUNK)

    def batches() -> Iterator[dict[str, NDArray[Any]]]:
        # A fixed batch takes whole batches only: a few images at the end may be left out.
        for start in range(0, max(1, len(images) - len(images) % size), size):
            context.progress("observing ranges", start + size, len(images))
            yield {inputs[0].name: preprocess(images[start : start + size])}

    collect(path, batches()).save(context.out / "observations.npz")


def write_qdq(context: Context) -> None:
    """Quantize for one convention. Artefacts: model.onnx, summary.json, facts.json."""
    settings = context.settings
    out = context.out / "model.onnx"
    summary = quantize(
        context.inputs["model"],
        Observations.load(context.inputs["observations"]),
        QuantizationConvention(**settings["convention"]),
        out,
        method=settings["method"],
        percentile=settings["percentile"],
        ignore=settings["ignore"],
    )
    facts = {
        "weight_bytes": describe(read_model(out)).weight_bytes,
        "onnx_size_bytes": out.stat().st_size,
    }
    for name, document in (("summary", summary.document()), ("facts", facts)):
        (context.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
