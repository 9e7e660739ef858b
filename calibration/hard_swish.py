"""Fold HardSwish that an exporter wrote out into one operator, which runtimes fuse into the layer before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from calibration.graph import FloatGraph, attribute, drop_unused_constants

# The operator is there from this opset on.
OPSET = 14
CLOSE = 1e-6


def fold_hard_swish(graph: FloatGraph) -> None:
    """Fold x · HardSigmoid(x), x · Clip(x + 3, 0, 6) / 6 and the like into HardSwish, in place.

    Models of an older opset stay as they are.
    """
    opset = next((item.version for item in graph.model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < OPSET:
        return
    for node in graph.nodes:
        found = next(_forms(graph, node), None)
        if found is not None:
            source, inner = found
            folded = helper.make_node("HardSwish", [source], list(node.output), node.name)
            node.CopyFrom(folded)
            for item in inner:
                graph.model.graph.node.remove(item)
    drop_unused_constants(graph.model)


def _forms(graph: FloatGraph, last: onnx.NodeProto) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
    """Yield what is swished, and the nodes in between, if `last` ends a HardSwish."""
    if last.op_type == "Mul":
        for source, gate in (list(last.input), list(last.input)[::-1]):
            inner = _gate(graph, gate, source, 1.0)
            if inner:
                yield source, inner
    product = _sixth(graph, last)
    node = _only(graph, product)
    if node is not None and node.op_type == "Mul":
        for source, gate in (list(node.input), list(node.input)[::-1]):
            inner = _gate(graph, gate, source, 6.0)
            if inner:
                yield source, [*inner, node]


def _gate(graph: FloatGraph, name: str, source: str, height: float) -> list[onnx.NodeProto]:
    """Return the nodes that make Clip(source + 3, 0, 6), scaled to a height, else nothing."""
    node = _only(graph, name)
    if node is None:
        return []
    if node.op_type == "HardSigmoid":
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        same = abs(alpha - 1 / 6) < CLOSE and abs(beta - 0.5) < CLOSE and height == 1.0
        return [node] if same and node.input[0] == source else []
    if height == 1.0:
        inner = _gate(graph, _sixth(graph, node), source, 6.0)
        return [*inner, node] if inner else []
    shifted = _only(graph, node.input[0]) if _is_relu6(graph, node) else None
    if shifted is None or shifted.op_type != "Add" or source not in shifted.input:
        return []
    three = next((_scalar(graph, item) for item in shifted.input if item != source), None)
    return [shifted, node] if three == 3.0 else []


def _is_relu6(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    bounds = [_scalar(graph, name) for name in node.input[1:3]]
    return node.op_type == "Clip" and bounds == [0.0, 6.0]


def _sixth(graph: FloatGraph, node: onnx.NodeProto) -> str:
    """Return the tensor that a node divides by six, "" when it does something else."""
    if node.op_type == "Div":
        return node.input[0] if _scalar(graph, node.input[1]) == 6.0 else ""
    if node.op_type == "Mul":
        for name, other in (list(node.input), list(node.input)[::-1]):
            factor = _scalar(graph, other)
            if factor is not None and abs(factor - 1 / 6) < CLOSE:
                return str(name)
    return ""


def _only(graph: FloatGraph, name: str) -> onnx.NodeProto | None:
    """Return the node that computes a tensor for one reader alone."""
    node = graph.producers.get(name)
    if node is None or len(graph.consumers.get(name, [])) != 1 or name in graph.outputs:
        return None
    return node


def _scalar(graph: FloatGraph, name: str) -> float | None:
    value = graph.constant(name)
    return float(np.reshape(value, -1)[0]) if value is not None and value.size == 1 else None
