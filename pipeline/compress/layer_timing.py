"""Measure a latency table: every form of layer, at a few widths, on the target's own runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.qdq import quantize
from calibration.ranges import collect
from pipeline.compress.latency import FormTimes, LatencyTable, monotone
from pipeline.compress.layer_models import LayerForm, forms, layer_model
from pipeline.compress.shapes import Shapes, Widths
from pipeline.onnxmodel.file import describe, read_model
from pipeline.timer import time_engines
from targets.measure import MeasureSettings, Timing
from targets.toolchain import Engine, EngineOptions

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

Progress = Callable[[str, int, int], None]

# Enough that the layers outweigh the call, few enough that their outputs share the caches as a network's do.
COPIES = 4
# One input can leave all of a narrow layer's outputs below zero; nothing can be calibrated on that.
INPUTS = 8
LAYER_SETTINGS = MeasureSettings(
    warmup_min_s=0.02, warmup_max_s=0.06, min_samples=48, min_s=0.0, max_s=20.0, resamples=1
)


@dataclass(frozen=True)
class LayerTarget:
    """Where layers are measured, and in what precision.

    Args:
        toolchain: that compiles and runs them, of `pipeline.places`: here, or on a device.
        device: name of the device file.
        options: precision and threads.
        convention: how int8 is written; needed for precision "int8".
    """

    toolchain: Any
    device: str
    options: EngineOptions
    convention: QuantizationConvention | None = None


@dataclass(frozen=True)
class Grid:
    """Widths at which a form is measured; inputs are one 0 for a depthwise convolution."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def measure_table(
    shapes: Shapes,
    narrowest: Widths,
    target: LayerTarget,
    alignment: int,
    progress: Progress,
) -> LatencyTable:
    """Measure all forms of layer of a network, from their narrowest to their full widths.

    Args:
        shapes: of the network to be cut.
        narrowest: leader → least width.
        target: where.
        alignment: widths that are measured are multiples of it.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        ModelError: the runtime refuses a layer.
    """
    grids = find_grids(shapes, narrowest, alignment)
    layers = []
    for number, (form, grid) in enumerate(grids.items()):
        progress(f"timing {form.name}", number, len(grids))
        layers.append(_measure(form, grid, target))
    return LatencyTable(
        device=target.device,
        toolchain=target.toolchain.name,
        precision=target.options.precision,
        threads=target.options.threads,
        fingerprint=target.toolchain.fingerprint(),
        layers=layers,
    )


def find_grids(shapes: Shapes, narrowest: Widths, alignment: int) -> dict[LayerForm, Grid]:
    """Where to measure: every form, over all widths its layers may have.

    Args:
        shapes: of the network.
        narrowest: leader → least width.
        alignment: of the widths between.
    """
    ranges: dict[LayerForm, list[tuple[int, int]]] = {}
    for layer in shapes.layers:
        for widths in (narrowest, shapes.full):
            inputs = 0 if layer.groups == 0 else int(layer.inputs.at(widths))
            for form in forms(layer):
                ranges.setdefault(form, []).append((inputs, int(layer.outputs.at(widths))))
    return {
        form: Grid(*(geometric(min(side), max(side), alignment) for side in zip(*pairs, strict=True)))
        for form, pairs in ranges.items()
    }


def geometric(least: int, most: int, alignment: int) -> tuple[int, ...]:
    """Rising widths from least to most, no two further apart than about a factor of 2.5; 4 at most."""
    if least == most:
        return (least,)
    count = min(4, 2 + int(np.log(most / least) / np.log(2.5)))
    between = np.geomspace(least, most, count)[1:-1] / alignment
    rounded = [int(value) for value in between.round() * alignment]
    return tuple(sorted({least, most, *(value for value in rounded if least < value < most)}))


@dataclass(frozen=True)
class _Model:
    inputs: int
    outputs: int
    copies: int

    @property
    def name(self) -> str:
        return f"{self.inputs}-{self.outputs}-{self.copies}"


def _measure(form: LayerForm, grid: Grid, target: LayerTarget) -> FormTimes:
    """Time a form's models against each other, and tell the layer's time from the call's.

    For one width of the input a call costs the same whatever is computed: it is told from the slope between
    one copy and several, at the narrowest output where inputs and outputs are not the same channels.
    """
    several = [_Model(i, o, COPIES) for i in grid.inputs for o in grid.outputs]
    firsts = several if form.groups == 0 else several[:: len(grid.outputs)]
    single = [replace(model, copies=1) for model in firsts]
    times = _time(form, [*several, *single], target)
    low, spread = np.array([times[model] for model in several]).T
    alone = np.array([times[model][0] for model in single])
    slope = np.maximum([times[model][0] for model in firsts] - alone, 0.0) / (COPIES - 1)
    call = np.maximum(alone - slope, 0.0).repeat(len(several) // len(single))
    shape = (len(grid.inputs), len(grid.outputs))
    return FormTimes(
        form=form,
        inputs=list(grid.inputs),
        outputs=list(grid.outputs),
        milliseconds=monotone(np.maximum(low - call, 0.0).reshape(shape) / COPIES).round(6).tolist(),
        spread_ms=(spread.reshape(shape) / COPIES).round(6).tolist(),
    )


def _time(
    form: LayerForm, models: Sequence[_Model], target: LayerTarget
) -> dict[_Model, tuple[float, float]]:
    """Fastest decile of every model's samples, and how far it is to their median, in milliseconds.

    What disturbs a run only ever adds to it, and most of what is timed here is shorter than a disturbance.
    """
    with TemporaryDirectory() as folder:
        paths = {}
        for model in models:
            paths[model.name] = Path(folder, f"{model.name}.onnx")
            inputs = model.inputs or model.outputs
            # Where all are timed at once, by name, no two inputs may have the same one.
            made = layer_model(form, inputs, model.outputs, model.copies, f"x{model.name}")
            onnx.save(made, paths[model.name])
        timings = time_models(paths, target, LAYER_SETTINGS)
    found = {}
    for model in models:
        low, middle = np.quantile(timings[model.name].samples_ms, [0.1, 0.5])
        found[model] = float(low), float(middle - low)
    return found


def time_models(
    models: Mapping[str, Path], target: LayerTarget, settings: MeasureSettings
) -> dict[str, Timing]:
    """Time ONNX models against each other on random inputs, as they would be shipped.

    Args:
        models: name → float model of one input, batch 1.
        target: where, and in what precision; int8 is calibrated on the random input.
        settings: of the measurement.

    Raises:
        ModelError: the runtime refuses a model.
    """
    engines, inputs = {}, {}
    with TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(models.items()):
            x = describe(read_model(model)).inputs[0]
            draw = np.random.default_rng(0)
            given = [{x.name: draw.normal(size=x.shape).astype(np.float32)} for _ in range(INPUTS)]
            engines[name] = make_engine(model, given, target, Path(folder, str(number)))
            inputs[name] = given
        return time_engines(target.toolchain, engines, inputs, settings)


def make_engine(
    model: Path, given: Sequence[dict[str, NDArray[np.float32]]], target: LayerTarget, folder: Path
) -> Engine:
    """Build a float model for the target.

    Args:
        model: an ONNX file.
        given: inputs int8 is calibrated on; ranges do not matter to time, so the least and greatest value do.
        target: where, and in what precision.
        folder: for what is written on the way; made here if need be.

    Raises:
        ModelError: the runtime refuses the model.
    """
    engine = folder / "engine"
    engine.mkdir(parents=True)
    if target.options.precision == "int8":
        assert target.convention is not None
        quantized = folder / "qdq.onnx"
        quantize(model, collect(model, given), target.convention, quantized, method="minmax")
        model = quantized
    made: Engine = target.toolchain.compile(model, target.device, target.options, engine)
    return made
