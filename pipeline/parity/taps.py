"""Looking at the tensors inside an ONNX model, and cutting a piece out of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from pipeline.onnxmodel.file import graph_inputs, is_float


def float_tensors(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return the float tensors that depend on an input and whose rank is known, in topological order.

    The model's outputs are among them.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in (*graph.value_info, *graph.output) if _is_float(value)}
    live = {value.name for value in graph_inputs(graph)}
    tensors = {}
    for node in graph.node:
        if live.intersection(node.input):
            live.update(name for name in node.output if name)
            tensors.update({name: known[name] for name in node.output if name in known})
    return tensors


def dequantized(graph: onnx.GraphProto) -> dict[str, str]:
    """Return each tensor that went through QuantizeLinear and DequantizeLinear → the tensor it stands for."""
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.output[0]: quantized[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    }


def tapped(model: onnx.ModelProto, tensors: Iterable[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Return a copy of the model that has these tensors as outputs as well."""
    outputs = {value.name for value in model.graph.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(value for value in tensors if value.name not in outputs)
    return copy


def cut(
    model: onnx.ModelProto, known: Mapping[str, NDArray[np.generic]], target: str, like: NDArray[np.generic]
) -> onnx.ModelProto | None:
    """Cut out what computes `target` from the nearest known tensors.

    Args:
        model: to cut from.
        known: tensor name → values; those that are needed become inputs of the piece.
        target: the piece's only output.
        like: values of the target, for its type and rank.

    Returns:
        The piece, or None where it cannot be cut: it needs something unknown or holds a subgraph.
    """
    nodes = _needed(model.graph, known, target)
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    made = {name for node in nodes for name in node.output} | {tensor.name for tensor in weights}
    inputs = sorted(used - made - {""})
    subgraphs = any(attribute.HasField("g") for node in nodes for attribute in node.attribute)
    if subgraphs or not nodes or any(name not in known for name in inputs):
        return None
    graph = onnx.helper.make_graph(
        nodes,
        "piece",
        [_value_info(name, known[name]) for name in inputs],
        [_value_info(target, like)],
        weights,
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )


def _needed(graph: onnx.GraphProto, known: Collection[str], target: str) -> list[onnx.NodeProto]:
    wanted = {target}
    nodes = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(name for name in node.input if name not in known)
    return nodes[::-1]


def _value_info(name: str, values: NDArray[np.generic]) -> onnx.ValueInfoProto:
    element_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.helper.make_tensor_value_info(name, element_type, list(values.shape))


def _is_float(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return is_float(kind.elem_type) and kind.HasField("shape")
