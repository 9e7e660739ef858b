"""costs: what a network's layers, and networks as a whole, take on the target a latency budget is for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.compress.allocation import width_levels
from pipeline.compress.groups import find_groups
from pipeline.compress.latency import Anchor
from pipeline.compress.layer_timing import LayerTarget, make_engine, measure_table
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import cut
from pipeline.export import export
from pipeline.places import toolchain_of
from pipeline.simplify import simplify
from pipeline.stage import Context, Progress
from pipeline.stages.data import evenly, read_preprocess, read_split
from pipeline.stages.loading import fresh_uncut, input_shape
from pipeline.timer import time_engines
from targets.capability import QuantizationConvention
from targets.measure import MeasureSettings
from targets.toolchain import Engine, EngineOptions

IMAGES = 32
INPUT = "input"
# As whole engines are timed in the end, but for less long: what is wanted is a line through three points.
SETTINGS = MeasureSettings(warmup_min_s=0.3, min_samples=200, min_s=1.0, max_s=20.0)


def measure(context: Context) -> None:
    """Time layers at some widths, and whole networks at three. Artefact: costs.json.

    Weights do not matter to time, so none are taken: the table is as good after the teacher learnt again.
    """
    settings = context.settings
    shape = input_shape(context.inputs["facts"])
    network = fresh_uncut(settings["model"], context.inputs)
    groups = find_groups(network, shape)
    shapes = find_shapes(network, groups, shape)
    levels = width_levels(shapes.full, settings["alignment"], settings["minimum"])
    narrowest = {leader: steps[0] for leader, steps in levels.items()}
    target = layer_target(settings, context.progress)
    table = measure_table(shapes, narrowest, target, settings["alignment"], context.progress)
    chosen = [
        {leader: steps[place * (len(steps) - 1) // 2] for leader, steps in levels.items()}
        for place in range(3)
    ]
    images = evenly(read_split(context.inputs["calibrate"])[0], IMAGES)
    inputs = read_preprocess(context.inputs["preprocess"])(images)
    context.progress("timing whole networks", 0, 1)
    with TemporaryDirectory() as folder:
        engines = {
            str(number): build_engine(
                _cut(network, widths, shape), shape, target, inputs, Path(folder, str(number))
            )
            for number, widths in enumerate(chosen)
        }
        fed = [{INPUT: image[None]} for image in inputs]
        timings = time_engines(target.toolchain, engines, dict.fromkeys(engines, fed), SETTINGS)
    anchors = [
        Anchor(widths=widths, measured_ms=timings[str(number)].median_ms)
        for number, widths in enumerate(chosen)
    ]
    table.corrected(shapes, anchors).save(context.out / "costs.json")


def layer_target(settings: Mapping[str, Any], progress: Progress) -> LayerTarget:
    """What is timed on, as `wiring.networks.timing` describes it."""
    return LayerTarget(
        toolchain=toolchain_of(settings, progress),
        device=settings["device"],
        options=EngineOptions(settings["precision"], settings["threads"], settings["raw"]),
        convention=settings["convention"] and QuantizationConvention(**settings["convention"]),
    )


def _cut(network: nn.Module, widths: Mapping[str, int], shape: tuple[int, int, int, int]) -> nn.Module:
    keep = {leader: list(range(width)) for leader, width in widths.items()}
    return cut(copy.deepcopy(network), keep, shape)


def build_engine(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    target: LayerTarget,
    images: NDArray[np.float32],
    folder: Path,
) -> Engine:
    """A network built for the target the way a build does it."""
    folder.mkdir()
    raw, simple = folder / "raw.onnx", folder / "simple.onnx"
    export(network, shape, raw, exporter="legacy", opset=17, dynamic_batch=False)
    simplify(raw, simple)
    return make_engine(simple, [{INPUT: image[None]} for image in images], target, folder)
