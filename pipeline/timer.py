"""Time ONNX models on a target for whoever chooses between them: `calibration.budgets.Latency` takes this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import Any

import numpy as np

from calibration.budgets import Timer
from calibration.ranges import Batch
from targets.measure import MeasureSettings, Timing, compare
from targets.toolchain import Engine, EngineOptions

# Shorter than what is reported in the end: many models are timed, and only against each other.
SETTINGS = MeasureSettings(warmup_min_s=0.1, warmup_max_s=1.0, min_samples=100, min_s=0.5, max_s=20.0)


def engine_timer(
    toolchain: Any,
    device: str,
    options: EngineOptions,
    settings: MeasureSettings = SETTINGS,
    clock: Callable[[], int] = perf_counter_ns,
) -> Timer:
    """Return a function that compiles models for a device and times them, interleaved, where that is.

    Args:
        toolchain: of `pipeline.places`: of this machine, or of a device.
        device: name of the device file.
        options: precision "int8", threads, raw options.
        settings: how long and how often.
        clock: nanoseconds, monotonic; a device has its own.

    Returns:
        names → milliseconds: medians. It raises ModelError where the runtime refuses a model.
    """

    def time(models: Mapping[str, Path], inputs: Sequence[Batch]) -> dict[str, float]:
        engines = {}
        with TemporaryDirectory() as folder:
            for number, (name, model) in enumerate(models.items()):
                place = Path(folder, str(number))
                place.mkdir()
                engines[name] = toolchain.compile(model, device, options, place)
            given = {name: list(inputs) for name in engines}
            timings = time_engines(toolchain, engines, given, settings, clock)
        return {name: timing.median_ms for name, timing in timings.items()}

    return time


def time_engines(
    toolchain: Any,
    engines: Mapping[str, Engine],
    inputs: Mapping[str, Sequence[Batch]],
    settings: MeasureSettings,
    clock: Callable[[], int] = perf_counter_ns,
) -> dict[str, Timing]:
    """Time engines of one toolchain against each other, on this machine or on its device.

    Args:
        toolchain: that compiled them.
        engines: name → engine.
        inputs: name → what it is given, in rotation. On a device inputs of one name are the same for all.
        settings: how long and how often.
        clock: nanoseconds, monotonic; a device has its own.

    Raises:
        ModelError: an engine does not load, or its inputs do not fit.
        DeviceError: the device or the link to it failed.
    """
    if hasattr(toolchain, "bench"):
        samples = {
            name: np.concatenate([row[name] for row in rows]) for rows in inputs.values() for name in rows[0]
        }
        found = toolchain.bench(engines, samples, settings)["variants"]
        names = [field.name for field in fields(Timing)]
        return {name: Timing(**{key: found[name][key] for key in names}) for name in engines}
    runners = {}
    with ExitStack() as opened:
        for name, engine in engines.items():
            runners[name] = toolchain.open(engine)
            opened.callback(runners[name].close)
        return compare(runners, inputs, settings, clock)
