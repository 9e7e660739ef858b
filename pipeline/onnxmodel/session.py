"""The reference: an ONNX model run by ONNX Runtime on the CPU, as it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from pipeline.onnxmodel.file import describe, read_model
from targets.batches import CHUNK, Tensors, batch_size, run_in_batches, sample_count
from targets.errors import ModelError
from targets.tensors import exceptions_in, one_line

RUNTIME_ERRORS: tuple[type[Exception], ...] = (*exceptions_in(runtime_errors), RuntimeError, ValueError)


class OnnxSession:
    """One ONNX model, ready to run any number of samples.

    Only basic optimisation is on, and "WeightBiasQuantization" is off: it quantizes float weights that lie
    between Q and DQ, so what ran would no longer be what is written.

    Args:
        model: ONNX file, or a model in memory.

    Raises:
        ModelError: the file is unreadable, or ONNX Runtime refuses the model.
    """

    def __init__(self, model: Path | onnx.ModelProto) -> None:
        loaded = read_model(model) if isinstance(model, Path) else model
        facts = describe(loaded)
        self.inputs, self.outputs = facts.inputs, facts.outputs
        self._where = str(model) if isinstance(model, Path) else None
        self._session = self._open(loaded)

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run all samples, in batches the model takes.

        Args:
            inputs: name → [N, ...].

        Returns:
            output name → [N, ...].

        Raises:
            ModelError: the inputs do not fit the model, or an operator fails.
        """
        return run_in_batches(self.run, inputs, batch_size(self.inputs, min(CHUNK, sample_count(inputs))))

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run one batch as it is; raises as a call does."""
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except RUNTIME_ERRORS as error:
            raise self._refused(error) from error

    def _open(self, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["WeightBiasQuantization"],
            )
        except RUNTIME_ERRORS as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(
            f"ONNX Runtime refuses the model or its inputs: {one_line(error)}",
            where=self._where,
            mend="check operators, shapes and element types against what ONNX Runtime supports",
        )
