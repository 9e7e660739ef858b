"""compile, bench and evaluate outside of a build: single engines, by hand or from a script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.onnxmodel.file import describe, read_model
from pipeline.places import Place, toolchain_at
from pipeline.products import labels_of
from pipeline.publish import fresh_folder
from pipeline.quiet import machine_alone
from pipeline.record import Accuracy
from pipeline.run import Listener, run_alone
from pipeline.session import Session
from pipeline.stage import MOST_PROCESSOR_S, Progress, Stage
from pipeline.stages.data import read_preprocess
from pipeline.stages.engines import score_engine
from pipeline.task import Task
from pipeline.verbs.console import Waiting
from targets import environment
from targets.apart import Apart
from targets.capability import load_device
from targets.checks import check_model, check_request, refused
from targets.errors import ConfigError, DataError
from targets.measure import MeasureSettings, Timing, compare_turns, timed
from targets.npz import read_npz
from targets.remote.ssh import Host
from targets.tensors import sample_inputs
from targets.toolchain import Engine, Runner, load_toolchain
from targets.typed import as_raw
from targets.verdict import Judgement, judge

RANDOM_INPUTS = 8


@dataclass(frozen=True)
class CompileOrder:
    """What is to be compiled, and for whom.

    Args:
        model: ONNX file.
        device: a device file's name or path, or "this-machine".
        toolchain: None for the device's first.
        precision: None for "int8" when the model carries QDQ, else "fp32".
        threads: of one inference; 0 for all cores.
        out: folder that must not exist yet, or be empty.
        typed: hint, streams, provider, as `targets.typed` takes them.
        raw: options for the runtime; they win over the device's.
        place: of `place_of`; None for this machine.
    """

    model: Path
    device: str
    toolchain: str | None
    precision: str | None
    threads: int
    out: Path
    typed: Mapping[str, str | int | None] = field(default_factory=dict)
    raw: Mapping[str, str] = field(default_factory=dict)
    place: Place | None = None


def place_of(host: str | None, python: str) -> Place | None:
    """Return where --host is, as `pipeline.places` takes it; None without one.

    Raises:
        ConfigError: it is no address.
    """
    if host is None:
        return None
    Host.parse(host, python)
    return {"url": host, "python": python}


def compile_model(order: CompileOrder, progress: Progress) -> Engine:
    """Check an ONNX model against a device and compile it, here or on the device.

    Raises:
        ModelError, CapabilityError, ToolchainMissing, ConfigError, DeviceError: as they say.
    """
    if order.place and order.device == "this-machine":
        raise ConfigError(
            'say which device the host is; "this-machine" is this one', where="--host", mend="give --device"
        )
    device = load_device(order.device)
    name = order.toolchain or next(iter(device.toolchains))
    capability = device.capability(name)
    facts = describe(read_model(order.model))
    quantized = "QuantizeLinear" in facts.operators
    chosen = order.precision or ("int8" if quantized else "fp32")
    if chosen == "int8" and not quantized:
        raise ConfigError(
            "the model carries no QDQ, so it cannot become an INT8 engine",
            where=str(order.model),
            mend="quantize it first (a build does), or choose --precision fp32",
        )
    raw = capability.options | as_raw(name, order.typed) | dict(order.raw)
    tool = toolchain_at(name, order.place, progress)
    violations = check_request(
        device,
        name,
        precisions=[chosen],
        opset=facts.opset,
        dynamic_batch=any(-1 in spec.shape for spec in facts.inputs),
        runtime_version=tool.probe().version,
    ) or check_model(order.model, capability, device.memory_mib)
    if violations:
        raise refused(f"the model cannot run on {device.name} with {name}", violations, str(order.model))
    settings = {"toolchain": name, "device": device.name, "precision": chosen}
    stage = Stage(
        "compile",
        "pipeline.stages.engines:compile_alone",
        settings=settings | {"threads": order.threads, "raw": raw, "host": order.place},
        processor_s=MOST_PROCESSOR_S,
    )
    with fresh_folder(order.out) as folder:
        log = order.out.with_name(f"{order.out.name}.log")
        run_alone(stage, {"model": order.model.resolve()}, folder, log, progress)
    return Engine.load(order.out)


def bench_there(
    folders: Sequence[Path],
    inputs: Path | None,
    samples: int,
    seconds: float,
    place: Place,
    progress: Progress,
) -> Benched:
    """Time engines against each other on a device; arguments are those of `bench_engines`.

    Raises:
        ConfigError: engines whose inputs have one name and different shapes, which are sent once for all.
        DeviceError: the device or the link to it failed.
    """
    engines = {str(folder): Engine.load(folder) for folder in folders}
    arrays: dict[str, NDArray[Any]] = {}
    for engine in engines.values():
        rows = engine_inputs(engine, inputs)
        for name in rows[0]:
            stacked = np.concatenate([row[name] for row in rows])
            if name in arrays and arrays[name].shape[1:] != stacked.shape[1:]:
                raise ConfigError(
                    f"the engines' inputs {name} have different shapes", mend="time them one after the other"
                )
            arrays[name] = stacked
    settings = MeasureSettings(min_samples=samples, min_s=seconds, max_s=max(60.0, 4 * seconds))
    toolchain = toolchain_at(next(iter(engines.values())).toolchain, place, progress)
    found = toolchain.bench(engines, arrays, settings)["variants"]
    keys = [each.name for each in fields(Timing)]
    return Benched(
        {name: Timing(**{key: row[key] for key in keys}) for name, row in found.items()},
        {name: Judgement(row["verdict"], row["reasons"]) for name, row in found.items()},
    )


def bench_engines(
    folders: Sequence[Path], inputs: Path | None, samples: int, seconds: float, apart: bool = False
) -> Benched:
    """Time engines against each other, interleaved, and judge the timings.

    Args:
        folders: of engines; they may be of different toolchains.
        inputs: .npz with one array [N, …] for every input; None for random ones.
        samples: at least so many of each.
        seconds: at least so long, all together.
        apart: each engine in a process of its own.
    """
    engines = {str(folder): Engine.load(folder) for folder in folders}
    given = {name: engine_inputs(engine, inputs) for name, engine in engines.items()}
    settings = MeasureSettings(min_samples=samples, min_s=seconds, max_s=max(60.0, 4 * seconds))
    opened: dict[str, Apart | Runner] = {}
    try:
        for name, engine in engines.items():
            tool = load_toolchain(engine.toolchain)
            opened[name] = Apart(engine.folder, given[name]) if apart else tool.open(engine)
        turns = {
            name: each.turn if isinstance(each, Apart) else timed(each.infer, given[name])
            for name, each in opened.items()
        }
        with machine_alone(f"edgewright bench (process {os.getpid()})", Waiting()):
            before = environment.state()
            timings = compare_turns(turns, settings)
            after = environment.state()
    finally:
        for each in opened.values():
            each.close()
    return Benched(
        timings, {name: judge(timing, before, after, settings) for name, timing in timings.items()}
    )


@dataclass(frozen=True)
class Benched:
    """Timings of engines, and whether they can be trusted."""

    timings: dict[str, Timing]
    judgements: dict[str, Judgement]


@dataclass(frozen=True)
class Evaluation:
    """An engine's score.

    Args:
        labels: who says what an image shows, as in `DataSource.labels`.
        accuracy: agreement with the labels.
    """

    labels: str
    accuracy: Accuracy


def evaluate_engine(
    folder: Path,
    build_file: Path,
    split: str,
    allow_code: bool,
    listener: Listener,
    place: Place | None = None,
) -> Evaluation:
    """Score an engine on a split of a build file's data, for its task.

    Args:
        folder: of the engine.
        build_file: names data and task; their stages run if they have not yet.
        split: "select" or "test".
        allow_code: the build file may name Python code.
        listener: told about the stages.
        place: of `place_of`; None for this machine.
    """
    engine = Engine.load(folder)
    session = Session(build_file, allow_code, listener)
    labels, splits = labels_of(session.settings), session.request.splits
    entries = session.run_only("data", "task", labels, splits)
    accuracy = score_engine(
        engine,
        Task.load(entries["task"].out / "task.json"),
        entries[splits].out / split,
        read_preprocess(entries["data"].out / "preprocess.json"),
        listener.progress,
        toolchain=toolchain_at(engine.toolchain, place, listener.progress),
    )
    return Evaluation(labels, accuracy)


def engine_inputs(engine: Engine, path: Path | None) -> list[Mapping[str, NDArray[Any]]]:
    """Return inputs for an engine: rows of an .npz with one array [N, …] an input, or random ones.

    Raises:
        DataError: the file is unreadable or has no array for an input.
    """
    if path is None:
        return [sample_inputs(engine.inputs, seed) for seed in range(RANDOM_INPUTS)]
    found = read_npz(path)
    try:
        arrays = {spec.name: found[spec.name] for spec in engine.inputs}
    except KeyError as error:
        raise DataError(
            f"the file has no array for the input {error}",
            where=str(path),
            mend=f"give arrays {', '.join(spec.name for spec in engine.inputs)}",
        ) from error
    count = min(len(array) for array in arrays.values())
    return [{name: array[index : index + 1] for name, array in arrays.items()} for index in range(count)]
