"""measure: what the engines of a target take, on real inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.onnxmodel.file import read_model
from pipeline.onnxmodel.layers import join, layers_of
from pipeline.places import in_thousandths, toolchain_of
from pipeline.stage import Context
from pipeline.stages.data import evenly, read_preprocess, read_split
from targets.bench import Extras, bench, steps
from targets.errors import GateFailed
from targets.measure import MeasureSettings
from targets.toolchain import Engine

DIFFERENT_INPUTS = 32
FLOAT_BITS = {16: "f", 32: "F"}


def measure(context: Context) -> None:
    """Time all variants of a target against each other. Artefact: timings.json.

    Raises:
        GateFailed: stable timings are demanded and these are not; they are left in the debris.
    """
    images = evenly(read_split(context.inputs["calibrate"])[0], DIFFERENT_INPUTS)
    engines = {
        name.removeprefix("engine "): Engine.load(folder)
        for name, folder in context.inputs.items()
        if name.startswith("engine ")
    }
    document = _timed(context, engines, images)
    for variant, extras in document["extras"].items():
        _describe_layers(extras, context.inputs[f"model {variant}"])
    _write(document, context.out)
    if context.settings["stable"] == "demand":
        _demand_stability(document, context.debris)


def _timed(context: Context, engines: Mapping[str, Engine], images: NDArray[np.generic]) -> dict[str, Any]:
    """Measure where the engines are: on this machine, or on the device the settings name."""
    preprocess = read_preprocess(context.inputs["preprocess"])
    samples = {"image": preprocess(images)}
    settings = MeasureSettings(**context.settings["measure"])
    extras = Extras(**context.settings["extras"])
    outputs = max(engine.outputs[0].shape[-1] for engine in engines.values())
    scores = np.random.default_rng(0).standard_normal((len(images), max(outputs, 1)))
    if "host" in context.settings:
        there = toolchain_of(context.settings, context.progress)
        document: dict[str, Any] = there.bench(engines, samples, settings, extras)
        return document | {"steps": there.steps(preprocess, images, scores)}
    document = bench(engines, samples, settings, in_thousandths(context.progress), extras)
    return document | {"steps": steps(preprocess, images, scores)}


def _describe_layers(extras: dict[str, Any], model: Path) -> None:
    """Join the runtime's operators with the model's layers, and say how many bits those have."""
    loaded = read_model(model)
    if "layers" in extras:
        extras["layers"] = join(extras["layers"], loaded)
    layers = layers_of(loaded)
    if any(layer.weight_bits not in FLOAT_BITS for layer in layers):
        extras["bits"] = [
            {
                "layer": layer.name,
                "weights_per_channel": layer.weights_per_channel,
                "bits": FLOAT_BITS.get(layer.weight_bits, str(layer.weight_bits)) * layer.channels,
            }
            for layer in layers
        ]


def _demand_stability(document: Mapping[str, Any], debris: Path) -> None:
    unstable = {
        name: variant for name, variant in document["variants"].items() if variant["verdict"] != "stable"
    }
    if unstable:
        debris.mkdir(parents=True, exist_ok=True)
        _write(document, debris)
        said = "; ".join(
            f"{name} is {variant['verdict']} ({', '.join(variant['reasons'])})"
            for name, variant in unstable.items()
        )
        raise GateFailed(
            f"timings are not stable: {said}",
            where=str(debris / "timings.json"),
            mend='leave the machine alone and build again, or set measure.stable = "report"',
        )


def _write(document: Mapping[str, Any], folder: Path) -> None:
    (folder / "timings.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
