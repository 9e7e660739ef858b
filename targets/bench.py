"""A whole measurement of several engines on one machine, as the build's record has it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from targets import environment
from targets.errors import DataError
from targets.measure import compare, open_timed, speedup
from targets.toolchain import load_toolchain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.measure import MeasureSettings, Progress
    from targets.toolchain import Engine, Tensors


def bench(
    engines: Mapping[str, Engine],
    samples: Mapping[str, NDArray[np.generic]],
    settings: MeasureSettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Open engines, time them against each other, and describe the machine before and after.

    Args:
        engines: variant → engine.
        samples: input → [N, ...] real samples, as of `inputs_for`.
        settings: durations and counts.
        progress: called with what is being done and the fraction done, 0 to 1.

    Returns:
        JSON values: "variants", "speedups" and "environment" as the build's record has them.

    Raises:
        DataError: the samples lack an input.
        ModelError: an engine does not load, or the samples do not fit it.
    """
    inputs = {name: inputs_for(engine, samples) for name, engine in engines.items()}
    opened = {
        name: open_timed(load_toolchain(engine.toolchain), engine, inputs[name][0])
        for name, engine in engines.items()
    }
    before = environment.state()
    runners = {name: each.runner for name, each in opened.items()}
    timings = compare(runners, inputs, settings, progress=progress)
    after = environment.state()
    for runner in runners.values():
        runner.close()
    return {
        "variants": {
            name: {
                **asdict(timing),
                "load_ms": opened[name].load_ms,
                "first_inference_ms": opened[name].first_inference_ms,
            }
            for name, timing in timings.items()
        },
        "speedups": {
            name: [
                {"baseline": other, "ratio": faster.ratio, "interval": faster.interval}
                for other in timings
                if other != name
                for faster in [speedup(timings[other].samples_ms, timings[name].samples_ms, settings)]
            ]
            for name in timings
        },
        "environment": {"facts": environment.facts(), "before": before, "after": after},
    }


def inputs_for(engine: Engine, samples: Mapping[str, NDArray[np.generic]]) -> list[Tensors]:
    """Return what an engine is given: for every sample one set of inputs, repeated to fill its batch.

    Args:
        engine: of any batch; a dynamic one gets 1.
        samples: input → [N, ...] without the batch axis, N of them; under any name where the engine has one
            input.

    Raises:
        DataError: an input without samples.
    """
    given = dict(samples)
    if len(engine.inputs) == 1 and len(given) == 1:
        given = {engine.inputs[0].name: next(iter(given.values()))}
    missing = [spec.name for spec in engine.inputs if spec.name not in given or not len(given[spec.name])]
    if missing:
        raise DataError(
            f"there are no samples for the input {', '.join(missing)}",
            where=str(engine.folder),
            mend="give one array for every input",
        )
    count = min(len(given[spec.name]) for spec in engine.inputs)
    return [
        {spec.name: _batch(given[spec.name][number], spec.shape[0]) for spec in engine.inputs}
        for number in range(count)
    ]


def _batch(sample: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    return np.resize(sample[None], (max(1, size), *sample.shape))
