"""What an INT8 model carries, against the quantization convention of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from targets.operators import all_nodes, named
from targets.violation import Violation

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from targets.capability import QuantizationConvention

SEVEN_BITS = 63
# TensorProto.FLOAT16
HALF = 10
MEND_ACTIVATIONS = "quantize the float model for this device; a build does"


def is_quantized(model: onnx.ModelProto) -> bool:
    """Say whether a model carries explicit QDQ."""
    return any(node.op_type == "QuantizeLinear" for node in all_nodes(model))


def written_precision(model: onnx.ModelProto) -> str:
    """Return what a model is written in: "int8" with QDQ, "fp16" with constants of it, else "fp32"."""
    if is_quantized(model):
        return "int8"
    halves = any(tensor.data_type == HALF for tensor in model.graph.initializer)
    return "fp16" if halves else "fp32"


def check_convention(model: onnx.ModelProto, convention: QuantizationConvention) -> list[Violation]:
    """List where the QDQ of a model is not written as a device needs it.

    Args:
        model: with its weights, unless they lie in other files; what is not there is not checked.
        convention: of the device's toolchain.
    """
    checks: list[tuple[str, str, Callable[[onnx.NodeProto], bool]]] = []
    values = _Constants(model)
    if convention.activations == "int8-symmetric":
        rule = "activations are int8 with zero-point 0"
        checks.append(("QuantizeLinear", rule, lambda node: not values.is_symmetric(node)))
        checks.append(
            ("DequantizeLinear", "every zero-point is 0", lambda node: not values.has_zero_points_0(node))
        )
    if convention.weight_bits == 7:
        rule = f"weights are within ±{SEVEN_BITS}, or sums saturate in 16 bits and outputs are wrong"
        checks.append(("DequantizeLinear", rule, values.exceeds_seven_bits))
    found = ((kind, rule, _nodes(model, kind, wrong)) for kind, rule, wrong in checks)
    return [Violation(rule, named(nodes), MEND_ACTIVATIONS, kind) for kind, rule, nodes in found if nodes]


class _Constants:
    """Constant inputs of Q and DQ nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def _value(self, node: onnx.NodeProto, index: int) -> NDArray[np.generic] | None:
        from onnx import TensorProto, numpy_helper

        tensor = self._tensors.get(node.input[index]) if index < len(node.input) else None
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        value: NDArray[np.generic] = numpy_helper.to_array(tensor)
        return value

    def is_symmetric(self, node: onnx.NodeProto) -> bool:
        zero = self._value(node, 2)
        # Without a zero-point QuantizeLinear makes uint8 (ONNX operator specification).
        return zero is not None and zero.dtype.name == "int8" and not zero.any()

    def has_zero_points_0(self, node: onnx.NodeProto) -> bool:
        zero = self._value(node, 2)
        return zero is None or not zero.any()

    def exceeds_seven_bits(self, node: onnx.NodeProto) -> bool:
        weights: Any = self._value(node, 0)
        if weights is None or weights.dtype.name != "int8" or weights.ndim < 2:
            return False
        return bool(weights.max(initial=0) > SEVEN_BITS or weights.min(initial=0) < -SEVEN_BITS)


def _nodes(
    model: onnx.ModelProto, kind: str, wrong: Callable[[onnx.NodeProto], bool]
) -> list[onnx.NodeProto]:
    return [node for node in all_nodes(model) if node.op_type == kind and wrong(node)]
