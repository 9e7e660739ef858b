"""OpenVINO on the CPU: the engine is the model's IR and the blob compiled from it for this very CPU.

What is pinned, because the runtime's default is something else: the precision (bf16 on CPUs that have it),
the threads, one stream, and no dynamic quantization of activations behind compressed weights. With a
performance hint the runtime chooses streams and threads, unless they are given; what it chose is said.
Importing it reports to Google Analytics through the package openvino_telemetry; that is kept from loading.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from targets.cpu import cpu_fingerprint
from targets.errors import CapabilityError, ModelError
from targets.layers import WARM, LayerTime, medians
from targets.openvino_requests import NOISE, OpenVinoRunner, RequestQueue
from targets.tensors import exceptions_in, one_line
from targets.throughput import QueuedLoad
from targets.toolchain import Engine, EngineOptions, Probe, TensorSpec, file_sha256
from targets.versions import installed_version, require_own_engine, require_version

if TYPE_CHECKING:
    from targets.toolchain import Tensors

NAME = "openvino"
DEVICE = "CPU"
IR_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"
BLOB_FILE = "model.blob"
MADE_ON_FILE = "blob-made-on.json"

# precision → INFERENCE_PRECISION_HINT (the float parts of int8 run in f32), and the capability it needs.
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
NEEDS = {"fp32": "FP32", "int8": "INT8", "bf16": "BF16", "fp16": "FP16"}
HINT = "PERFORMANCE_HINT"


class OpenVino:
    """The toolchain "openvino": CPU, fp32, int8 (explicit QDQ), bf16 or fp16 where the CPU has it."""

    name = NAME

    def probe(self) -> Probe:
        """Say whether OpenVINO works here, without raising."""
        version = installed_version(NAME)
        if version is None:
            return Probe(False, None, "openvino is not installed", "pip install openvino")
        try:
            capabilities = _capabilities(open_core())
        except (ImportError, OSError, RuntimeError) as error:
            reason = f"openvino does not load: {one_line(error, drop=NOISE)}"
            return Probe(False, version, reason, "pip install --force-reinstall openvino")
        return Probe(True, version, f"OpenVINO {version}, {DEVICE} with {', '.join(capabilities)}")

    def fingerprint(self) -> dict[str, str]:
        """Runtime version and CPU; the runtime is not imported."""
        return {"openvino": installed_version(NAME) or "missing", **cpu_fingerprint()}

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Engines run wherever they are compiled."""
        return None

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Compile an ONNX file into `folder` and save its engine.json.

        Raises:
            ToolchainMissing: OpenVINO is not installed.
            CapabilityError: this CPU does not compute in that precision.
            ModelError: OpenVINO refuses the model.
        """
        version = require_version(NAME, NAME, installed_version(NAME))
        core = open_core()
        _check_precision(core, options.precision, device)
        network = _read_onnx(model)
        compiled = _compile(core, network, options, model)
        _write(network, compiled, folder, self.fingerprint())
        engine = Engine(
            folder=folder,
            toolchain=NAME,
            toolchain_version=version,
            device=device,
            options=options,
            inputs=tuple(_spec(port) for port in network.inputs),
            outputs=tuple(_spec(port) for port in network.outputs),
            files={
                name: file_sha256(folder / name) for name in (IR_FILE, WEIGHTS_FILE, BLOB_FILE, MADE_ON_FILE)
            },
            notes=_notes(options, compiled),
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> OpenVinoRunner:
        """Load an engine: its blob if made on this CPU by this version, else its IR, compiled again.

        Raises:
            ToolchainMissing: OpenVINO is not installed.
            CapabilityError: this CPU does not compute in the engine's precision.
            ModelError: the engine is another toolchain's or version's, or does not load.
        """
        version = require_version(NAME, NAME, installed_version(NAME))
        require_own_engine(engine, NAME, version)
        core = open_core()
        _check_precision(core, engine.options.precision, engine.device)
        if json.loads((engine.folder / MADE_ON_FILE).read_text(encoding="utf-8")) == self.fingerprint():
            return OpenVinoRunner(engine, _import_blob(core, engine), from_blob=True)
        return OpenVinoRunner(engine, _recompiled(engine, engine.options), from_blob=False)

    def flags(self, options: EngineOptions) -> dict[str, str]:
        """Return every property a model is compiled with."""
        return {"device": DEVICE, **{name: str(value) for name, value in _properties(options).items()}}

    def open_many(self, engine: Engine, requests: int) -> QueuedLoad:
        """Open an engine for several requests at once: compiled again, with a stream for each.

        Raises:
            ModelError: the engine does not load.
        """
        streams = {"NUM_STREAMS": str(requests), "INFERENCE_NUM_THREADS": str(requests)}
        options = replace(engine.options, raw={**engine.options.raw, **streams})
        compiled = _recompiled(engine, options)
        queue = RequestQueue(_openvino().AsyncInferQueue(compiled, requests), engine.inputs)
        how = f"{compiled.get_property('NUM_STREAMS')} streams, asynchronous requests"
        return QueuedLoad(queue, engine.inputs, requests, how)

    def profile(self, engine: Engine, inputs: Sequence[Tensors], runs: int) -> list[LayerTime]:
        """Return the time of every operator that ran, from the runtime's performance counters.

        Args:
            engine: of this toolchain.
            inputs: used in rotation.
            runs: medians are over so many.
        """
        counting = replace(engine.options, raw={**engine.options.raw, "PERF_COUNT": "YES"})
        # A blob was compiled without counters.
        runner = OpenVinoRunner(engine, _recompiled(engine, counting), from_blob=False)
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(WARM + runs):
            runner.infer(inputs[number % len(inputs)])
            for name, kind, milliseconds in runner.operators() if number >= WARM else ():
                times.setdefault((name, kind), []).append(milliseconds)
        return medians(times)


def _recompiled(engine: Engine, options: EngineOptions) -> Any:
    """Compile an engine's IR again, with other options than its blob has or on another CPU."""
    core = open_core()
    network = _guarded("cannot read the engine", engine.folder, core.read_model, engine.folder / IR_FILE)
    return _compile(core, network, options, engine.folder)


def _openvino() -> Any:
    """Import openvino with its telemetry kept out: None in sys.modules makes it fall back to its own stub."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def open_core() -> Any:
    """Return a new Core, telemetry kept out."""
    return _openvino().Core()


def _capabilities(core: Any) -> list[str]:
    return [str(name) for name in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")]


def _check_precision(core: Any, precision: str, device: str) -> None:
    """Refuse a precision this CPU lacks: OpenVINO would silently compute in f32 instead.

    Raises:
        CapabilityError: it does not compute in that precision.
    """
    capabilities = _capabilities(core)
    if NEEDS.get(precision) not in capabilities:
        fitting = [name for name, need in NEEDS.items() if need in capabilities]
        raise CapabilityError(
            f"this CPU does not compute in {precision} with OpenVINO",
            where=f"device {device}",
            mend=f"ask for one of: {', '.join(fitting)}",
        )


def _properties(options: EngineOptions) -> dict[str, Any]:
    streams = options.raw.get("NUM_STREAMS", "1")
    # Threads are those of one inference; the runtime wants those of all streams.
    threads = options.threads * (int(streams) if streams.isdigit() else 1)
    arranged: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    if HINT in options.raw:
        # One stream would overrule the hint; threads are left to it where all cores are allowed.
        arranged = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    return {
        "INFERENCE_PRECISION_HINT": HINTS[options.precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        **arranged,
        **options.raw,
    }


def _notes(options: EngineOptions, compiled: Any) -> tuple[str, ...]:
    hint = f"PERFORMANCE_HINT={options.raw[HINT]}, " if HINT in options.raw else ""
    arranged = ", ".join(
        f"{name}={compiled.get_property(name)}" for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS")
    )
    pinned = f"INFERENCE_PRECISION_HINT={HINTS[options.precision]}, {hint}{arranged}"
    blob = "the blob serves this CPU and version; elsewhere the IR is compiled when the engine is opened"
    return (pinned, *(["float parts run in fp32"] if options.precision == "int8" else []), blob)


def _guarded(what: str, where: Path, function: Any, *arguments: Any) -> Any:
    """Call the runtime; what it raises becomes a ModelError with its reason in one line."""
    try:
        return function(*arguments)
    except _runtime_errors() as error:
        raise ModelError(
            f"OpenVINO {what}: {one_line(error, drop=NOISE)}",
            where=str(where),
            mend="check the file with onnx.checker, or export it again with operators the runtime has",
        ) from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What it raises: the front ends' errors derive from Exception, one by one."""
    from openvino import frontend

    return (*exceptions_in(frontend), RuntimeError, ValueError, TypeError)


def _read_onnx(model: Path) -> Any:
    """Read with the ONNX front end alone: asked for any, OpenVINO tries TensorFlow's on a broken file.

    Raises:
        ModelError: it is unreadable, empty, or has an operator OpenVINO lacks.
    """
    from openvino.frontend import FrontEndManager

    front_end = FrontEndManager().load_by_framework("onnx")
    loaded = _guarded("cannot read the model", model, front_end.load, str(model))
    network = _guarded("refuses the model", model, front_end.convert, loaded)
    if not network.outputs:
        raise ModelError(
            "the ONNX file holds no graph", where=str(model), mend="export the model again; it is empty"
        )
    return network


def _compile(core: Any, network: Any, options: EngineOptions, where: Path) -> Any:
    return _guarded("refuses the model", where, core.compile_model, network, DEVICE, _properties(options))


def _import_blob(core: Any, engine: Engine) -> Any:
    blob = (engine.folder / BLOB_FILE).read_bytes()
    return _guarded(
        "cannot import the blob", engine.folder, core.import_model, blob, DEVICE, _properties(engine.options)
    )


def _write(network: Any, compiled: Any, folder: Path, made_on: dict[str, str]) -> None:
    _openvino().serialize(network, folder / IR_FILE, folder / WEIGHTS_FILE)
    (folder / BLOB_FILE).write_bytes(compiled.export_model().getvalue())
    (folder / MADE_ON_FILE).write_text(json.dumps(made_on, indent=1) + "\n", encoding="utf-8")


def _spec(port: Any) -> TensorSpec:
    shape = tuple(length.get_length() if length.is_static else -1 for length in port.partial_shape)
    return TensorSpec(port.get_any_name(), np.dtype(port.element_type.to_dtype()).name, shape)
