"""Compute a quantized model fast and as written, and say how far its outputs are from the float model's.

Weights are dequantized once, and the optimisations that would turn Q/DQ into the CPU's integer kernels are
off: what comes out is what the Q/DQ form means, also on CPUs whose kernels saturate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.external import open_session
from calibration.ranges import Batch

Array = NDArray[np.float64]
Outputs = dict[str, NDArray[np.generic]]

# They move or remove Q/DQ pairs, or quantize float weights between them.
REWRITING = ["WeightBiasQuantization", "QDQPropagationTransformer", "QDQSelectorActionTransformer"]


def simulate(model: onnx.ModelProto, batches: Iterable[Batch]) -> Outputs:
    """Run a float or quantized model and return its outputs, output name → array over all inputs.

    Args:
        model: as `qdq.quantize` writes it, or float.
        batches: input name → array [N, …].
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = open_session(with_float_weights(model), options, REWRITING)
    names = [item.name for item in session.get_outputs()]
    parts = [session.run(None, dict(batch)) for batch in batches]
    return {
        name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every DequantizeLinear of a constant is that constant in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    kept = []
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            values, scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input)
            axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
            shape = [-1 if index == axis else 1 for index in range(values.ndim)] if scale.ndim else []
            steps = values.astype(np.float32) - zero_point.astype(np.float32).reshape(shape)
            real = steps * scale.reshape(shape)
            copy.graph.initializer.append(numpy_helper.from_array(real.astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def output_distance(reference: Outputs, got: Outputs) -> float:
    """Return how far outputs are from a reference: one figure, 0 when they are equal.

    For an output [N, K] of logits it is the mean Kullback-Leibler divergence of the softmax, in nats; for
    any other float output the power of the difference relative to the reference's. Several are averaged.
    """
    parts = [part.mean() for part in _by_input(reference, got)]
    return float(np.mean(parts)) if parts else 0.0


def output_distances(reference: Outputs, got: Outputs) -> Array:
    """Return the distance of each input's outputs, [N]; its mean is `output_distance`.

    Outputs that do not have one entry an input are one figure, [1].
    """
    parts = _by_input(reference, got)
    if len({len(part) for part in parts}) == 1:
        return np.asarray(np.mean(parts, axis=0))
    return np.array([output_distance(reference, got)])


def _by_input(reference: Outputs, got: Outputs) -> list[Array]:
    floats = [name for name, value in reference.items() if value.dtype.kind == "f"]
    return [_distances(np.atleast_1d(reference[name]), np.atleast_1d(got[name])) for name in floats]


def _distances(reference: NDArray[np.generic], got: NDArray[np.generic]) -> Array:
    expected, actual = reference.astype(np.float64), got.astype(np.float64)
    if expected.ndim == 2 and expected.shape[1] > 1:
        p, q = _log_shares(expected), _log_shares(actual)
        return np.asarray(np.sum(np.exp(p) * (p - q), axis=1))
    axes = tuple(range(1, expected.ndim))
    return np.asarray(
        np.sum((expected - actual) ** 2, axis=axes)
        / max(float(np.mean(np.sum(expected**2, axis=axes))), 1e-30)
    )


def _log_shares(values: Array) -> Array:
    """Return the logarithms of the probabilities that logits, or probabilities themselves, stand for."""
    if (values >= 0.0).all() and np.allclose(values.sum(1), 1.0, atol=1e-3):
        return np.asarray(np.log(np.maximum(values, 1e-12)))
    shifted = values - values.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
