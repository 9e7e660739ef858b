"""How many multiply-accumulates one inference takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx.inliner

from pipeline.onnxmodel.file import graph_inputs
from targets.errors import ModelError
from targets.tensors import one_line

Shapes = Mapping[str, tuple[int, ...]]


def count_macs(model: onnx.ModelProto) -> int:
    """Count multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, for one sample.

    A dynamic first dimension of an input counts as 1. Bodies of If, Loop and Scan are not counted, nor are
    fused operators of other domains.

    Args:
        model: as `read_model` returns it, float or with explicit QDQ.

    Raises:
        ModelError: a dimension other than the batch is dynamic, or a shape cannot be inferred.
    """
    return sum(macs for _, macs, _ in nodes_with_macs(model))


def nodes_with_macs(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int, tuple[int, ...]]]:
    """Yield every node that `count_macs` counts, its multiply-accumulates and the shape of its output.

    Args:
        model: as for `count_macs`.

    Raises:
        ModelError: as `count_macs`.
    """
    inferred = _infer(model)
    shapes = _shapes(inferred.graph)
    for node in inferred.graph.node:
        if node.op_type in COUNTERS:
            yield node, _node_macs(node, shapes), shapes[node.output[0]]


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy at batch 1 with the shape of every tensor that inference finds."""
    copy = onnx.inliner.inline_local_functions(model) if model.functions else onnx.ModelProto()
    if not model.functions:
        copy.CopyFrom(model)
    for value in graph_inputs(copy.graph):
        _fix_batch(value)
    # Shapes the exporter noted speak of its symbolic batch and would stand in the way.
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"shapes cannot be inferred: {one_line(error)}", mend="simplify or export the model again"
        ) from error


def _fix_batch(value: onnx.ValueInfoProto) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.HasField("dim_value"):
            continue
        if axis > 0:
            raise ModelError(
                f"dimension {axis} of input {value.name!r} is dynamic, so its cost is not defined",
                where=value.name,
                mend="export the model with fixed sizes; only the batch may be dynamic",
            )
        dim.dim_value = 1


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    missing = [name for name in (*node.input[:2], node.output[0]) if name not in shapes]
    if missing:
        raise ModelError(
            f"the shape of tensor {missing[0]!r} cannot be inferred",
            where=f"{node.op_type} {node.name or node.output[0]}",
            mend="simplify or export the model again with fixed sizes",
        )
    try:
        return COUNTERS[node.op_type](node, shapes)
    except IndexError as error:
        raise ModelError(
            f"{node.op_type} {node.name or node.output[0]!r} has an input of too few dimensions",
            where=node.name,
            mend="export the model again",
        ) from error


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every output element sums over (input channels / groups) × kernel."""
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every input element is spread over (output channels / groups) × kernel."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    rows_first = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if rows_first else 1]


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


COUNTERS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
