"""Sessions of ONNX Runtime: an ONNX file with its options and provider, ready to run or to be traced."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from targets.errors import ModelError
from targets.providers import require_started, session_entries, session_providers
from targets.tensors import exceptions_in, one_line, ordered_inputs, sample_inputs
from targets.toolchain import EngineOptions, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.toolchain import Tensors

# The runtime's own names of element types, where they are not numpy's.
ELEMENT_TYPES = {"float": "float32", "double": "float64"}


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
        self._session = new_session(model, options, profile=profile)
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


def trace(
    model: Path, options: EngineOptions, inputs: Sequence[Tensors] = (), runs: int = 1
) -> list[dict[str, Any]]:
    """What the profiler says of some inferences; without inputs, of made-up ones."""
    with TemporaryDirectory() as folder:
        runner = OnnxRuntimeRunner(model, options, Path(folder, "profile"))
        given = inputs or [sample_inputs(runner.inputs)]
        for number in range(runs):
            runner.infer(given[number % len(given)])
        events: list[dict[str, Any]] = json.loads(Path(runner.end_profiling()).read_text(encoding="utf-8"))
    return events


def new_session(
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
    for key, value in entries(options).items():
        settings.add_session_config_entry(key, value)
    providers = session_providers(options.raw)
    try:
        session = ort.InferenceSession(str(model), settings, providers=providers, enable_fallback=0)
    except _runtime_errors() as error:
        raise ModelError(
            f"ONNX Runtime refuses the model: {_reason(error)}",
            where=str(model),
            mend="check the file with onnx.checker, or export it again with operators the runtime has",
        ) from error
    require_started(session, options.raw)
    return session


def entries(options: EngineOptions) -> dict[str, str]:
    """Return the session's configuration entries; targets/onnxruntime.py says why one optimiser is off."""
    return {
        "optimization.disable_specified_optimizers": "WeightBiasQuantization",
        **session_entries(options.raw),
    }


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
