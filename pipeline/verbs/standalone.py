"""compile, bench and evaluate outside of a build: single engines, by hand or from a script."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.onnxmodel.file import describe, read_model
from pipeline.products import labels_of
from pipeline.publish import fresh_folder
from pipeline.quiet import machine_alone
from pipeline.record import Accuracy
from pipeline.run import Listener
from pipeline.session import Session
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
from targets.tensors import sample_inputs
from targets.toolchain import Engine, EngineOptions, Runner, load_toolchain
from targets.verdict import Judgement, judge

RANDOM_INPUTS = 8


def compile_model(
    model: Path, device_name: str, toolchain: str | None, precision: str | None, threads: int, out: Path
) -> Engine:
    """Check an ONNX model against a device and compile it.

    Args:
        model: ONNX file.
        device_name: a device file's name or path, or "this-machine".
        toolchain: None for the device's first.
        precision: None for "int8" when the model carries QDQ, else "fp32".
        threads: of one inference; 0 for all cores.
        out: folder that must not exist yet, or be empty.

    Raises:
        ModelError, CapabilityError, ToolchainMissing, ConfigError: as they say.
    """
    device = load_device(device_name)
    name = toolchain or next(iter(device.toolchains))
    capability = device.capability(name)
    facts = describe(read_model(model))
    quantized = "QuantizeLinear" in facts.operators
    chosen = precision or ("int8" if quantized else "fp32")
    if chosen == "int8" and not quantized:
        raise ConfigError(
            "the model carries no QDQ, so it cannot become an INT8 engine",
            where=str(model),
            mend="quantize it first (a build does), or choose --precision fp32",
        )
    tool = load_toolchain(name)
    violations = check_request(
        device,
        name,
        precisions=[chosen],
        opset=facts.opset,
        dynamic_batch=any(-1 in spec.shape for spec in facts.inputs),
        runtime_version=tool.probe().version,
    ) or check_model(model, capability, device.memory_mib)
    if violations:
        raise refused(f"the model cannot run on {device.name} with {name}", violations, str(model))
    with fresh_folder(out) as folder:
        tool.compile(model, device.name, EngineOptions(chosen, threads), folder)
    return Engine.load(out)


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
    folder: Path, build_file: Path, split: str, allow_code: bool, listener: Listener
) -> Evaluation:
    """Score an engine on a split of a build file's data, for its task.

    Args:
        folder: of the engine.
        build_file: names data and task; their stages run if they have not yet.
        split: "select" or "test".
        allow_code: the build file may name Python code.
        listener: told about the stages.
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
    )
    return Evaluation(labels, accuracy)


def engine_inputs(engine: Engine, path: Path | None) -> list[Mapping[str, NDArray[Any]]]:
    """Return inputs for an engine: rows of an .npz with one array [N, …] an input, or random ones.

    Raises:
        DataError: the file is unreadable or has no array for an input.
    """
    if path is None:
        return [sample_inputs(engine.inputs, seed) for seed in range(RANDOM_INPUTS)]
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {spec.name: archive[spec.name] for spec in engine.inputs}
    except KeyError as error:
        raise DataError(
            f"the file has no array for the input {error}",
            where=str(path),
            mend=f"give arrays {', '.join(spec.name for spec in engine.inputs)}",
        ) from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read the inputs: {error}", where=str(path)) from error
    count = min(len(array) for array in arrays.values())
    return [{name: array[index : index + 1] for name, array in arrays.items()} for index in range(count)]
