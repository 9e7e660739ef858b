"""Plans built and run by trtexec, in the forms that `build` and `PlanRunner` have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence

import numpy as np

from targets.errors import ModelError
from targets.layers import LayerTime
from targets.nvidia.build import Built, agreement, dla_note, require_dla_precision
from targets.nvidia.inspector import read_layers
from targets.nvidia.options import BuildOptions
from targets.nvidia.trtexec import (
    RAW_OUTPUTS,
    STRONGLY_TYPED,
    Trtexec,
    build_flags,
    read_profile,
    read_times,
    run_flags,
    safe_name,
    shape_flag,
)
from targets.onnxhead import OnnxHead, read_head
from targets.tensors import ordered_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.nvidia.log import TrtexecLog
    from targets.toolchain import EngineOptions, Tensors, TensorSpec

PLAN, CACHE, LAYERS = "model.plan", "timing.cache", "layers.json"
# Timed in one process; each process warms up anew.
CHUNK = 100
WARM_UP_MS = 200
WRITTEN = re.compile(
    r"Writing file for output binding (.+) \(with datatype .* and dimensions ([\d.]*)\) to (.+)$"
)
# What trtexec prints for infinite and missing numbers is no JSON.
NO_NUMBER = re.compile(r"(?<=[\s,\[])(-?)(inf|nan)(?=[\s,\]])")


def build_outside(program: Trtexec, model: Path, options: EngineOptions) -> Built:
    """Build a plan by trtexec: until two agree, or as often as the options allow.

    Args:
        program: trtexec.
        model: ONNX file.
        options: precision and raw options.

    Raises:
        ModelError: an impossible option, or TensorRT refuses the model.
        CapabilityError: a DLA that does not take the precision.
    """
    asked, head = BuildOptions.read(options.raw), read_head(model)
    if asked.compute_capabilities:
        raise ModelError("TensorRT builds for the GPU it runs on", where="raw.compute_capability")
    _require_written(program, head, options.precision, model)
    require_dla_precision(asked.dla_core, options.precision)
    flags = build_flags(program, options.precision, asked, head.inputs)
    plans: list[bytes] = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        while len(plans) < asked.builds and (len(plans) < 2 or plans[-1] not in plans[:-1]):
            (folder / CACHE).unlink(missing_ok=True)
            if asked.timing_cache:
                (folder / CACHE).write_bytes(asked.read_timing_cache())
            log = program.run(_build_command(model, flags), folder, "trtexec refuses the model", model)
            plans.append(_written(folder / PLAN))
        layers = read_layers((folder / LAYERS).read_text(encoding="utf-8"))
        cache = (folder / CACHE).read_bytes() if (folder / CACHE).exists() else b""
    return Built(
        plan=plans[-1],
        inputs=head.inputs,
        outputs=head.outputs,
        layers=layers,
        timing_cache=cache,
        notes=(*_notes(program, flags, asked, log), agreement(plans)),
        inspected=True,
    )


class OutsideRunner:
    """A plan that trtexec runs, a process for each inference: for gates, not for an application.

    Args:
        program: trtexec.
        plan: the file, its head already checked.
        inputs, outputs: of the engine, in the model's order.
    """

    apart = True

    def __init__(
        self, program: Trtexec, plan: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._program, self._plan = program, plan.resolve()

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run once.

        Raises:
            ModelError: inputs that do not fit, or TensorRT fails.
        """
        raw = self._program.since(RAW_OUTPUTS)
        with TemporaryDirectory() as place:
            folder = Path(place)
            flags = ["--iterations=1", "--duration=0", "--warmUp=0"]
            flags += ["--dumpRawBindingsToFile"] if raw else ["--exportOutput=outputs.json"]
            log = self._run(inputs, folder, flags)
            if not raw:
                return _from_json(folder / "outputs.json", self.outputs)
            return _from_raw(log, folder, self.outputs)

    def timed(self, inputs: Sequence[Tensors]) -> Callable[[], float]:
        """Return a turn for `compare_turns`: the next of the times trtexec itself took."""
        return _turns(self._times(inputs)).__next__

    def profile(self, inputs: Tensors, runs: int) -> list[LayerTime]:
        """Return the time of every layer, by trtexec's profiler."""
        with TemporaryDirectory() as place:
            folder = Path(place)
            flags = [f"--iterations={runs}", "--duration=0", f"--warmUp={WARM_UP_MS}"]
            flags += [] if self._program.since((11, 0)) else ["--separateProfileRun"]
            self._run(inputs, folder, [*flags, "--exportProfile=profile.json"])
            rows = read_profile(folder / "profile.json")
        return sorted((LayerTime(name, "", ms) for name, ms in rows), key=lambda layer: -layer.median_ms)

    def close(self) -> None:
        """Nothing is open between inferences."""

    def _times(self, inputs: Sequence[Tensors]) -> Iterator[list[float]]:
        number = 0
        while True:
            with TemporaryDirectory() as place:
                folder = Path(place)
                flags = [f"--iterations={CHUNK}", "--duration=0", f"--warmUp={WARM_UP_MS}"]
                self._run(inputs[number % len(inputs)], folder, [*flags, "--exportTimes=times.json"])
                yield read_times(folder / "times.json")
            number += 1

    def _run(self, inputs: Tensors, folder: Path, flags: Sequence[str]) -> TrtexecLog:
        arrays = ordered_inputs(self.inputs, inputs)
        names = [f"{index}-{safe_name(spec.name)}.bin" for index, spec in enumerate(self.inputs)]
        for name, array in zip(names, arrays):
            array.tofile(str(folder / name))
        loads = ",".join(f"{spec.name}:{name}" for spec, name in zip(self.inputs, names))
        open_shapes = [
            (spec.name, array.shape) for spec, array in zip(self.inputs, arrays) if -1 in spec.shape
        ]
        command = [f"--loadEngine={self._plan}", f"--loadInputs={loads}", *shape_flag("shapes", open_shapes)]
        command += [*run_flags(self._program), *flags]
        return self._program.run(command, folder, "trtexec fails to run the engine", self._plan)


def _turns(chunks: Iterator[list[float]]) -> Iterator[float]:
    for chunk in chunks:
        if not chunk:
            raise ModelError("trtexec timed nothing")
        yield from chunk


def _build_command(model: Path, flags: Sequence[str]) -> list[str]:
    files = [f"--saveEngine={PLAN}", f"--timingCacheFile={CACHE}", f"--exportLayerInfo={LAYERS}"]
    return [f"--onnx={model.resolve()}", *files, *flags]


def _written(plan: Path) -> bytes:
    try:
        return plan.read_bytes()
    except OSError as error:
        raise ModelError(f"trtexec says it passed and wrote no plan: {error}") from error


def _require_written(program: Trtexec, head: OnnxHead, precision: str, model: Path) -> None:
    """Refuse a graph that is not written in the precision asked for, where that decides.

    Raises:
        ModelError: it is not.
    """
    if program.since(STRONGLY_TYPED) and head.precision != precision:
        raise ModelError(
            f"the graph is written in {head.precision}, and {precision} was asked for; "
            f"TensorRT {program.version} runs the types of the graph",
            where=str(model),
            mend="write the precision into the ONNX model, which a build does, or ask for another",
        )


def _notes(program: Trtexec, flags: Sequence[str], asked: BuildOptions, log: TrtexecLog) -> Iterator[str]:
    yield f"built by trtexec {program.version}: {' '.join(flags)}"
    if asked.dla_core is not None:
        yield dla_note(asked.dla_core, list(log.dla_left))
    if asked.timing_cache:
        yield f"tactics from the timing cache {asked.timing_cache_sha256[:12]}"


def _from_raw(log: TrtexecLog, folder: Path, outputs: Sequence[TensorSpec]) -> dict[str, NDArray[np.generic]]:
    files = {found[1]: (found[2], found[3]) for found in map(WRITTEN.search, log.said) if found}
    results = {}
    for spec in outputs:
        if spec.name not in files:
            raise ModelError("trtexec did not write it", where=f"output {spec.name}")
        shape, name = files[spec.name]
        lengths = [int(length) for length in shape.split(".") if length]
        results[spec.name] = _shaped(np.fromfile(str(folder / name), spec.dtype), lengths, spec)
    return results


def _from_json(path: Path, outputs: Sequence[TensorSpec]) -> dict[str, NDArray[np.generic]]:
    """Of 8.2 to 8.5, which print six digits."""
    words = {"inf": "Infinity", "nan": "NaN"}
    text = NO_NUMBER.sub(lambda found: found[1] + words[found[2]], path.read_text(encoding="utf-8"))
    said: dict[str, dict[str, Any]] = {each["name"]: each for each in json.loads(text)}
    results = {}
    for spec in outputs:
        lengths = [int(length) for length in re.findall(r"\d+", said[spec.name]["dimensions"])]
        results[spec.name] = _shaped(np.asarray(said[spec.name]["values"], spec.dtype), lengths, spec)
    return results


def _shaped(values: NDArray[Any], lengths: Sequence[int], spec: TensorSpec) -> NDArray[Any]:
    if values.size != int(np.prod(lengths)):
        raise ModelError(
            f"trtexec gave {values.size} values for the shape {list(lengths)}", where=f"output {spec.name}"
        )
    return values.reshape(lengths)
