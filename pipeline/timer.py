"""Time ONNX models on a target for whoever chooses between them: `calibration.budgets.Latency` takes this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns

from calibration.budgets import Timer
from calibration.ranges import Batch
from targets.measure import MeasureSettings, compare
from targets.toolchain import EngineOptions, Toolchain

# Shorter than what is reported in the end: many models are timed, and only against each other.
SETTINGS = MeasureSettings(warmup_min_s=0.1, warmup_max_s=1.0, min_samples=100, min_s=0.5, max_s=20.0)


def engine_timer(
    toolchain: Toolchain,
    device: str,
    options: EngineOptions,
    settings: MeasureSettings = SETTINGS,
    clock: Callable[[], int] = perf_counter_ns,
) -> Timer:
    """Return a function that compiles models for a device and times them, interleaved, on this machine.

    Args:
        toolchain: that compiles and runs them.
        device: name of the device file.
        options: precision "int8", threads, raw options.
        settings: how long and how often.
        clock: nanoseconds, monotonic.

    Returns:
        names → milliseconds: medians. It raises ModelError where the runtime refuses a model.
    """

    def time(models: Mapping[str, Path], inputs: Sequence[Batch]) -> dict[str, float]:
        runners = {}
        with TemporaryDirectory() as folder, ExitStack() as opened:
            for number, (name, model) in enumerate(models.items()):
                engine = Path(folder, str(number))
                engine.mkdir()
                runners[name] = toolchain.open(toolchain.compile(model, device, options, engine))
                opened.callback(runners[name].close)
            timings = compare(runners, {name: list(inputs) for name in runners}, settings, clock)
        return {name: timing.median_ms for name, timing in timings.items()}

    return time
