"""ONNX Runtime on the CPU: the engine is the model with its device-independent optimisations done.

Two of its rules shape this module.

- Level "extended" (fusions, QDQ → integer kernels) is done once and saved. Level "layout" blocks channels by
  the width of this CPU's vectors, so a file saved after it is wrong on another CPU: it is left to loading.
- The optimiser "WeightBiasQuantization" quantizes float weights that lie between a DequantizeLinear and a
  QuantizeLinear, so a layer that the model keeps in float would run in int8. It is off. The price: a QDQ
  model with float biases keeps those layers in float, so biases have to be int32, dequantized by a node of
  their own. The raw option {"optimization.disable_specified_optimizers": ""} turns it on again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from targets.cpu import cpu_fingerprint
from targets.errors import CapabilityError, ModelError
from targets.layers import WARM, LayerTime, from_trace
from targets.tensors import exceptions_in, one_line, ordered_inputs, sample_inputs
from targets.throughput import ThreadedLoad
from targets.toolchain import Engine, EngineOptions, Probe, TensorSpec, file_sha256
from targets.versions import installed_version, require_own_engine, require_version

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.toolchain import Tensors

NAME = "onnxruntime"
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
PROVIDER = "CPUExecutionProvider"
PRECISIONS = ("fp32", "int8")
MODEL_FILE = "model.onnx"

# The runtime's own names of element types, where they are not numpy's.
ELEMENT_TYPES = {"float": "float32", "double": "float64"}


class OnnxRuntime:
    """The toolchain "onnxruntime": CPU, fp32 and int8 (explicit QDQ)."""

    name = NAME

    def probe(self) -> Probe:
        """Say whether ONNX Runtime works here, without raising."""
        version = installed_version(*PACKAGES)
        if version is None:
            return Probe(False, None, "onnxruntime is not installed", "pip install onnxruntime")
        try:
            import onnxruntime as ort

            providers = ort.get_available_providers()
        except (ImportError, OSError, AttributeError) as error:
            reason = f"onnxruntime does not load: {one_line(error)}"
            return Probe(False, version, reason, "pip install --force-reinstall onnxruntime")
        if PROVIDER not in providers:
            return Probe(False, version, f"{PROVIDER} is not in this build", "pip install onnxruntime")
        return Probe(True, version, f"ONNX Runtime {version}, {PROVIDER}")

    def fingerprint(self) -> dict[str, str]:
        """Runtime version and CPU; the runtime is not imported."""
        return {"onnxruntime": installed_version(*PACKAGES) or "missing", **cpu_fingerprint()}

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Engines run wherever they are compiled."""
        return None

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Optimise an ONNX file into `folder` and save its engine.json.

        Raises:
            ToolchainMissing: ONNX Runtime is not installed.
            CapabilityError: a precision the CPU provider has no kernels for.
            ModelError: ONNX Runtime refuses the model.
        """
        version = require_version(NAME, PACKAGES[0], installed_version(*PACKAGES))
        if options.precision not in PRECISIONS:
            raise CapabilityError(
                f"ONNX Runtime's CPU provider has no {options.precision} kernels",
                where=f"device {device}",
                mend=f"ask for one of: {', '.join(PRECISIONS)}",
            )
        direct = OnnxRuntimeRunner(model, options)
        notes = _save_optimised(model, options, folder / MODEL_FILE, direct)
        engine = Engine(
            folder=folder,
            toolchain=NAME,
            toolchain_version=version,
            device=device,
            options=options,
            inputs=direct.inputs,
            outputs=direct.outputs,
            files={MODEL_FILE: file_sha256(folder / MODEL_FILE)},
            notes=notes,
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> OnnxRuntimeRunner:
        """Load an engine.

        Raises:
            ToolchainMissing: ONNX Runtime is not installed.
            ModelError: the engine is another toolchain's or version's, or does not load.
        """
        version = require_version(NAME, PACKAGES[0], installed_version(*PACKAGES))
        require_own_engine(engine, NAME, version)
        return OnnxRuntimeRunner(engine.folder / MODEL_FILE, engine.options)

    def flags(self, options: EngineOptions) -> dict[str, str]:
        """Return every flag a session is given, by the runtime's own name."""
        return {
            "provider": PROVIDER,
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "intra_op_num_threads": str(options.threads),
            "inter_op_num_threads": "1",
            **_entries(options),
        }

    def open_many(self, engine: Engine, requests: int) -> ThreadedLoad:
        """Open an engine for several requests at once: one session, called by a thread for each."""
        return ThreadedLoad(self.open(engine), requests)

    def profile(self, engine: Engine, inputs: Sequence[Tensors], runs: int) -> list[LayerTime]:
        """Return the time of every node, from the session's profiler.

        Args:
            engine: of this toolchain.
            inputs: used in rotation.
            runs: medians are over so many.
        """
        with TemporaryDirectory() as folder:
            runner = OnnxRuntimeRunner(engine.folder / MODEL_FILE, engine.options, Path(folder, "profile"))
            for number in range(WARM + runs):
                runner.infer(inputs[number % len(inputs)])
            events = json.loads(Path(runner.end_profiling()).read_text(encoding="utf-8"))
        return from_trace(events, runs)


class OnnxRuntimeRunner:
    """An ONNX file in a session of its own.

    Args:
        model: ONNX file, optimised or not.
        options: threads and raw session options.
        profile: the profiler writes to a file whose name begins so; None for no profile.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: Path, options: EngineOptions, profile: Path | None = None) -> None:
        self._session = _session(model, options, profile=profile)
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run once.

        Raises:
            ModelError: inputs that do not fit, or an operator that fails on them.
        """
        arrays = ordered_inputs(self.inputs, inputs)
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays)}
        try:
            outputs = self._session.run(self._output_names, feed)
        except _runtime_errors() as error:
            raise ModelError(f"ONNX Runtime fails to run the model: {_reason(error)}") from error
        return dict(zip(self._output_names, outputs))

    def end_profiling(self) -> str:
        """Stop the profiler and return the path of what it wrote."""
        path: str = self._session.end_profiling()
        return path

    def close(self) -> None:
        """Give the session back."""
        self._session = None


def _session(
    model: Path,
    options: EngineOptions,
    level: str = "ORT_ENABLE_ALL",
    save: Path | None = None,
    profile: Path | None = None,
) -> Any:
    """Create a session, and write the model as optimised up to `level` when asked to.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    if save:
        settings.optimized_model_filepath = str(save)
    if profile:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    for key, value in _entries(options).items():
        settings.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(str(model), settings, providers=[PROVIDER])
    except _runtime_errors() as error:
        raise ModelError(
            f"ONNX Runtime refuses the model: {_reason(error)}",
            where=str(model),
            mend="check the file with onnx.checker, or export it again with operators the runtime has",
        ) from error


def _entries(options: EngineOptions) -> dict[str, str]:
    return {"optimization.disable_specified_optimizers": "WeightBiasQuantization", **options.raw}


def _save_optimised(
    model: Path, options: EngineOptions, path: Path, direct: OnnxRuntimeRunner
) -> tuple[str, ...]:
    """Save the optimised model if it computes the very same outputs, else the model as it is.

    Returns:
        notes for the engine.
    """
    try:
        _session(model, options, "ORT_ENABLE_EXTENDED", path)
        if _same_outputs(direct, OnnxRuntimeRunner(path, options)):
            return (
                "optimised before saving: fusions and integer kernels; blocked layouts are made on loading",
            )
        reason = "it computes other outputs"
    except ModelError as error:
        reason = error.what
    _session(model, options, "ORT_DISABLE_ALL", path)
    return (f"saved without optimisation, the optimised model was not reliable: {reason}",)


def _same_outputs(one: OnnxRuntimeRunner, other: OnnxRuntimeRunner) -> bool:
    inputs = sample_inputs(one.inputs)
    expected, found = one.infer(inputs), other.infer(inputs)
    return all(np.array_equal(expected[name], found[name], equal_nan=True) for name in expected)


def _spec(node: Any) -> TensorSpec:
    """Translate ONNX Runtime's "tensor(float)" and symbolic dimensions.

    Raises:
        ModelError: an input or output that is no tensor of numbers.
    """
    element = node.type[len("tensor(") : -1] if node.type.startswith("tensor(") else ""
    try:
        dtype = np.dtype(ELEMENT_TYPES.get(element, element)).name if element else ""
    except TypeError:
        dtype = ""
    if not dtype:
        raise ModelError(
            f"its type is {node.type}, which no engine here takes",
            where=f"tensor {node.name}",
            mend="export the model with tensors of numbers for inputs and outputs",
        )
    shape = tuple(length if isinstance(length, int) else -1 for length in node.shape)
    return TensorSpec(node.name, dtype, shape)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What a session raises: ONNX Runtime derives its errors from Exception, one by one."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    return (*exceptions_in(onnxruntime_pybind11_state), RuntimeError, ValueError)


def _reason(error: Exception) -> str:
    """Its message in one line, without "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error))
