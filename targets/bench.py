"""A whole measurement of several engines on one machine, as the build's record has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

from targets import environment
from targets.energy import energy, find_sensor
from targets.errors import DataError
from targets.footprint import footprint
from targets.layers import RUNS
from targets.measure import MeasureSettings, compare, compare_turns, open_timed, speedup, timed
from targets.throughput import throughput
from targets.toolchain import load_toolchain
from targets.verdict import judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.measure import Progress
    from targets.preprocess import Preprocess
    from targets.toolchain import Engine, Runner, Tensors


@dataclass(frozen=True)
class Extras:
    """What is measured beside latency, each engine on its own.

    Args:
        memory: open every engine in a process of its own: memory, time to load, first inference.
        throughput_s: seconds with several requests under way; 0 for none.
        requests: so many at once; 0 for one a core this process may use.
        energy_s: seconds without a pause, where a sensor is readable; 0 for none.
        layers: ask the runtime's profiler.
    """

    memory: bool = True
    throughput_s: float = 1.0
    requests: int = 0
    energy_s: float = 2.0
    layers: bool = True


LATENCY_ALONE = Extras(memory=False, throughput_s=0.0, energy_s=0.0, layers=False)
# Steps beside inference are short and of one kind: they need less time than engines.
STEP_SETTINGS = MeasureSettings(warmup_min_s=0.1, warmup_max_s=1.0, min_samples=100, min_s=0.3, max_s=10.0)


def bench(
    engines: Mapping[str, Engine],
    samples: Mapping[str, NDArray[np.generic]],
    settings: MeasureSettings,
    progress: Progress | None = None,
    extras: Extras = LATENCY_ALONE,
) -> dict[str, Any]:
    """Open engines, time them against each other, and describe the machine before and after.

    Latency comes last: by then whatever building the engines set into motion has come to rest.

    Args:
        engines: variant → engine.
        samples: input → [N, ...] real samples, as of `inputs_for`.
        settings: durations and counts.
        progress: called with what is being done and the fraction done, 0 to 1.
        extras: what is measured beside latency.

    Returns:
        JSON values: "variants", "speedups" and "environment" as the build's record has them, and "extras", of
        each variant its "flags" and, where they were measured, "memory", "throughput", "energy", "layers".

    Raises:
        DataError: the samples lack an input.
        ModelError: an engine does not load, or the samples do not fit it.
    """
    inputs = {name: inputs_for(engine, samples) for name, engine in engines.items()}
    opened = {
        name: open_timed(load_toolchain(engine.toolchain), engine, inputs[name][0])
        for name, engine in engines.items()
    }
    beside = {
        name: _beside(engine, opened[name].runner, inputs[name], extras) for name, engine in engines.items()
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
                **judge(timing, before, after, settings)._asdict(),
                "load_ms": opened[name].load_ms,
                "first_inference_ms": opened[name].first_inference_ms,
                **beside[name].pop("opening", {}),
            }
            for name, timing in timings.items()
        },
        "speedups": {
            name: [
                {"baseline": other, **faster._asdict()}
                for other in timings
                if other != name
                for faster in [speedup(timings[other].samples_ms, timings[name].samples_ms, settings)]
            ]
            for name in timings
        },
        "environment": {
            "facts": {**environment.facts(), **environment.process_facts()},
            "before": before,
            "after": after,
        },
        "extras": beside,
    }


def steps(
    preprocess: Preprocess, images: NDArray[np.generic], scores: NDArray[np.generic]
) -> list[dict[str, Any]]:
    """Time what an application does beside inference, one image at a time, interleaved.

    Args:
        preprocess: from stored images to the network's input.
        images: [N, H, W, C] as stored.
        scores: [N, K] as an engine gives them; the class is the highest.

    Returns:
        the record's `StepTime`s.
    """
    turns = {
        "preprocess": timed(preprocess, [image[None] for image in images]),
        "postprocess": timed(lambda row: row.argmax(axis=1), [row[None] for row in scores]),
    }
    return [
        {
            "step": name,
            "median_ms": timing.median_ms,
            "median_interval_ms": timing.median_interval_ms,
            "samples": timing.samples,
        }
        for name, timing in compare_turns(turns, STEP_SETTINGS).items()
    ]


def _beside(engine: Engine, runner: Runner, inputs: Sequence[Tensors], extras: Extras) -> dict[str, Any]:
    """What is measured of one engine alone, and the flags it runs with."""
    toolchain = load_toolchain(engine.toolchain)
    flags = getattr(toolchain, "flags", None)
    found: dict[str, Any] = {"flags": flags(engine.options) if flags else {}}
    # What this process takes says nothing of an engine that runs in others.
    apart = getattr(runner, "apart", False)
    if extras.memory and not apart:
        found.update(_memory(engine, inputs))
    if extras.throughput_s and hasattr(toolchain, "open_many"):
        load = toolchain.open_many(engine, extras.requests or environment.cores_allowed())
        try:
            found["throughput"] = asdict(throughput(load, inputs, extras.throughput_s))
        finally:
            load.close()
    sensor = find_sensor() if extras.energy_s and not apart else None
    if sensor:
        found["energy"] = asdict(energy(sensor, runner.infer, inputs, extras.energy_s))
    if extras.layers and hasattr(toolchain, "profile"):
        found["layers"] = [layer._asdict() for layer in toolchain.profile(engine, inputs, RUNS)]
    return found


def _memory(engine: Engine, inputs: Sequence[Tensors]) -> dict[str, Any]:
    seen = footprint(engine.folder, inputs[0])
    opening = {"load_ms": seen.load_ms, "first_inference_ms": seen.first_inference_ms}
    if seen.peak_bytes is None or seen.own_bytes is None:
        return {"opening": opening}
    return {"opening": opening, "memory": {"peak_bytes": seen.peak_bytes, "own_bytes": seen.own_bytes}}


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
