"""fp16 written into an ONNX graph: what runtimes need that take every type from the graph.

Inputs and outputs stay float32. Explicit QDQ stays between the same operators and its scales become fp16: a
runtime still finds DequantizeLinear → Conv → QuantizeLinear with no Cast in between, which would break the
pattern (TensorRT developer guide, "Explicit Quantization"). Which inputs may be fp16 is taken from ONNX's
own schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from targets.errors import ModelError
from targets.onnxfile import opset_of

# QuantizeLinear and DequantizeLinear take fp16 scales since this opset (ONNX operator changelog).
HALF_SCALES_OPSET = 19
LARGEST = float(np.finfo(np.float16).max)
# Steps between fp16 numbers are 2⁻²⁴ near zero: scales from here on are off by less than one per cent.
SMALLEST_SCALE = 2.0**-18
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
QDQ = ("QuantizeLinear", "DequantizeLinear")


def write_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a float32 model, quantized or not, whose float parts are fp16.

    Args:
        model: inference form, opset 19 or later where it carries QDQ.

    Raises:
        ModelError: it has branches or loops, or QDQ at an older opset.
    """
    _refuse(model)
    half = onnx.ModelProto()
    half.CopyFrom(onnx.shape_inference.infer_shapes(model))
    _Conversion(half).run()
    del half.graph.value_info[:]
    onnx.checker.check_model(half)
    return half


def _refuse(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    if opset < HALF_SCALES_OPSET and any(node.op_type in QDQ for node in model.graph.node):
        raise ModelError(
            f"fp16 scales need ONNX opset {HALF_SCALES_OPSET}, the model has {opset}",
            mend=f"convert the model to opset {HALF_SCALES_OPSET} first",
        )
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(
                f"fp16 cannot be written into the branches of {node.op_type}",
                where=f"node {node.name}",
                mend="export the network without control flow, or build fp32",
            )


class _Conversion:
    """One graph being converted in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.opset = opset_of(model)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.now = {value.name: FLOAT for value in self.graph.input if self._is_float(value.name)}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        """Convert every node that can be, and cast where converted and other nodes meet."""
        outputs = {value.name for value in self.graph.output}
        self._restore_weights()
        for node in self.graph.node:
            converts = self._converts(node)
            for index, name in enumerate(node.input):
                if name and self._is_float(name):
                    wanted = HALF if converts and self._may_be_half(node, index) else FLOAT
                    node.input[index] = self._as(name, wanted)
            self.nodes.append(node)
            if converts:
                self._write_type(node)
            for index, name in enumerate(node.output):
                self.now[name] = HALF if converts and self._is_float(name) else FLOAT
                if name in outputs and self.now[name] == HALF:
                    node.output[index] = self._give_float(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused()

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == FLOAT

    def _converts(self, node: onnx.NodeProto) -> bool:
        """Whether a node can compute in fp16, and has something to compute it from."""
        floats = [index for index, name in enumerate(node.input) if name and self._is_float(name)]
        given = [node.input[index] for index in floats if node.input[index] not in self.constants]
        if node.op_type == "QuantizeLinear" and all(name in self._graph_inputs() for name in given):
            return False
        if not floats:
            return node.op_type == "Cast" and self._is_float(node.output[0])
        if any(self._too_large(node, node.input[index]) for index in floats):
            return False
        return any(self._may_be_half(node, index) for index in floats) and all(
            self._may_be_half(node, index) or self._formal(node, index).type_str == "tensor(float)"
            for index in floats
        )

    def _graph_inputs(self) -> set[str]:
        return {value.name for value in self.graph.input}

    def _too_large(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether a constant does not fit; Clip's bounds may be cut."""
        if name not in self.constants or node.op_type == "Clip":
            return False
        value: NDArray[Any] = numpy_helper.to_array(self.constants[name])
        return bool(np.any(np.abs(value) > LARGEST))

    def _may_be_half(self, node: onnx.NodeProto, index: int) -> bool:
        schema = self._schema(node)
        constraint = self._formal(node, index).type_str
        return any(
            each.type_param_str == constraint and "tensor(float16)" in each.allowed_type_strs
            for each in schema.type_constraints
        )

    def _schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema:
        return onnx.defs.get_schema(node.op_type, self.opset, node.domain)

    def _formal(self, node: onnx.NodeProto, index: int) -> onnx.defs.OpSchema.FormalParameter:
        formals = self._schema(node).inputs
        return formals[min(index, len(formals) - 1)]

    def _as(self, name: str, wanted: int) -> str:
        """A tensor in the type wanted: itself, a constant's copy, or a cast of it."""
        if name in self.constants:
            return self._constant(name) if wanted == HALF else name
        if self.now.get(name, FLOAT) == wanted:
            return name
        if (name, wanted) not in self.made:
            self.made[name, wanted] = f"{name}_as_{'half' if wanted == HALF else 'float'}"
            self.nodes.append(
                helper.make_node("Cast", [name], [self.made[name, wanted]], to=wanted, name=f"cast {name}")
            )
        return self.made[name, wanted]

    def _constant(self, name: str) -> str:
        if (name, HALF) not in self.made:
            self.made[name, HALF] = f"{name}_half"
            value = np.clip(numpy_helper.to_array(self.constants[name]), -LARGEST, LARGEST)
            tensor = numpy_helper.from_array(value.astype(np.float16), self.made[name, HALF])
            self.graph.initializer.append(tensor)
        return self.made[name, HALF]

    def _give_float(self, name: str) -> str:
        """Let a node write another name, of which the graph's output is cast."""
        half = f"{name}_half"
        self.nodes.append(helper.make_node("Cast", [half], [name], to=FLOAT, name=f"cast {name}"))
        # Whoever else takes this tensor takes it before the cast.
        self.made[name, HALF], self.now[name] = half, FLOAT
        return half

    def _write_type(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = HALF

    def _restore_weights(self) -> None:
        """Give every scale a value that fp16 has; integers that are stored follow it."""
        for tensor, scale, axis in self._scales():
            old: NDArray[np.float32] = numpy_helper.to_array(self.constants[scale])
            new = np.maximum(old, SMALLEST_SCALE).astype(np.float16).astype(np.float32)
            if tensor in self.constants:
                self._rescale(tensor, old / new, axis)
            self.constants[scale].CopyFrom(numpy_helper.from_array(new, scale))

    def _scales(self) -> Iterator[tuple[str, str, int]]:
        """What is dequantized, its scale, and the scale's axis; each scale once."""
        seen: set[str] = set()
        for node in self.graph.node:
            if node.op_type in QDQ and node.input[1] in self.constants and node.input[1] not in seen:
                seen.add(node.input[1])
                axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
                yield (node.input[0] if node.op_type == "DequantizeLinear" else ""), node.input[1], axis

    def _rescale(self, name: str, factor: NDArray[np.float32], axis: int) -> None:
        integers: NDArray[Any] = numpy_helper.to_array(self.constants[name])
        bounds = np.iinfo(integers.dtype)
        shape = [-1 if each == axis % integers.ndim else 1 for each in range(integers.ndim)]
        moved = np.round(integers * (factor.reshape(shape) if factor.ndim else factor))
        # Weights are symmetric: -128 never occurs.
        restored = np.clip(moved, -bounds.max, bounds.max).astype(integers.dtype)
        self.constants[name].CopyFrom(numpy_helper.from_array(restored, name))

    def _drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
