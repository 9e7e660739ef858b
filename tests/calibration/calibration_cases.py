"""The conventions, and how a model computes exactly as written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from targets.capability import QuantizationConvention

SYMMETRIC = QuantizationConvention(activations="int8-symmetric", weight_bits=8, quantize_residual_inputs=True)
ASYMMETRIC = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=8, quantize_residual_inputs=True
)
# What CPUs without VNNI get; with 8 bits they saturate, so that only 7 bits can be compared on any machine.
SYMMETRIC_7 = QuantizationConvention(
    activations="int8-symmetric", weight_bits=7, quantize_residual_inputs=True
)
ASYMMETRIC_7 = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=7, quantize_residual_inputs=False
)


def reference(
    model: Path | onnx.ModelProto, inputs: np.ndarray, names: list[str] | None = None
) -> list[np.ndarray]:
    """Run a model in ONNX Runtime exactly as written, and return its first output or the named tensors."""
    proto = onnx.load(model) if isinstance(model, Path) else model
    for name in names or []:
        if name not in {value.name for value in proto.graph.output}:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, {"input": inputs})


def sqnr_db(expected: np.ndarray, got: np.ndarray) -> float:
    """Return the signal to noise ratio of an approximation in dB."""
    return 10 * float(np.log10(np.sum(expected**2) / np.sum((expected - got) ** 2)))
