"""How much a model claims to be, told before anything is computed from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import onnx

from pipeline.onnxmodel.tensors import all_graphs

MAX_NODES = 100_000
MAX_DEPTH = 50  # of functions that call each other
MAX_ELEMENTS = 2**31 - 1  # of one input or output, for one sample

Function = tuple[str, str]


def objection(model: onnx.ModelProto, values: Iterable[onnx.ValueInfoProto]) -> str | None:
    """Say what is impossible about a model's extent: nodes, functions, shapes of inputs and outputs.

    Args:
        model: parsed, not yet checked.
        values: its inputs and outputs.
    """
    calls = {(each.domain, each.name): _called(each.node) for each in model.functions}
    inside = [called for graph in all_graphs(model) for called in _called(graph.node)]
    try:
        nodes = sum(sizes(calls, inside))
    except RecursionError:
        return f"its functions call themselves, or each other more than {MAX_DEPTH} deep"
    if nodes > MAX_NODES:
        return f"the model has {nodes:,} nodes, more than the {MAX_NODES:,} taken at most"
    for value in values:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if min(dims, default=1) < 0 or math.prod(dims) > MAX_ELEMENTS:
            return f"{value.name!r} has the impossible shape {dims}"
    return None


def sizes(calls: Mapping[Function, Sequence[Function]], nodes: Sequence[Function]) -> list[int]:
    """Nodes that each of some nodes becomes when functions are replaced by their bodies.

    Args:
        calls: function → what its nodes are, functions or operators.
        nodes: what they are.

    Raises:
        RecursionError: functions call each other too deep.
    """
    known: dict[Function, int] = {}

    def size(node: Function, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise RecursionError
        if node in calls and node not in known:
            known[node] = sum(size(called, depth + 1) for called in calls[node])
        return known.get(node, 1)

    return [size(node, 0) for node in nodes]


def _called(nodes: Iterable[onnx.NodeProto]) -> list[Function]:
    return [(node.domain, node.op_type) for node in nodes]
