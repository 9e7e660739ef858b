"""Split a layer by output channels: some in INT8, the others in 16-bit float, and a Concat.

The channels are sorted so that each part is one block. Where everything that reads the layer can take its
channels in another order (the permutation is folded into the readers' weights), this is all; elsewhere a
Gather puts the channels back, which costs a copy. Either way the network computes what it did, but that the
weights of the float part are rounded to 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.graph import FloatGraph, attribute, drop_unused_constants
from targets.errors import ConfigError

# A value in, a value out, the same for every channel.
CHANNELWISE = frozenset(
    {
        "AveragePool",
        "Clip",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "Relu",
        "Sigmoid",
        "Tanh",
    }
)
ACTIVATIONS = frozenset({"Clip", "HardSwish", "Relu"})
Order = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """What became of a layer.

    Args:
        quantized: name of the node with the channels for INT8.
        floating: name of the node with the channels in 16-bit float; `placement` leaves it float.
        folded: whether the order of the channels went into the readers; otherwise a Gather restores it.
    """

    quantized: str
    floating: str
    folded: bool


def can_split(graph: FloatGraph, layer: onnx.NodeProto) -> bool:
    """Say whether a layer can be split: a Conv of one group whose weights no other node reads."""
    return (
        layer.op_type == "Conv"
        and attribute(layer, "group", 1) == 1
        and all(len(graph.consumers[name]) == 1 and name in graph.constants for name in layer.input[1:])
    )


def split_layer(graph: FloatGraph, name: str, in_float: NDArray[np.bool_]) -> tuple[FloatGraph, Split]:
    """Split one layer of a model.

    Args:
        graph: prepared float model; it is changed.
        name: of the layer's node.
        in_float: which output channels are to stay float, [C], some and not all.

    Returns:
        the graph with its maps made anew, and the names of the parts.

    Raises:
        ConfigError: the layer cannot be split, or one part would be empty.
    """
    layer = next((node for node in graph.nodes if node.name == name), None)
    if layer is None or not can_split(graph, layer):
        raise ConfigError(
            f"layer {name!r} cannot be split by output channels", mend="keep the whole layer in float"
        )
    channels = graph.constants[layer.input[1]].dims[0]
    if in_float.shape != (channels,) or not 0 < in_float.sum() < channels:
        raise ConfigError(
            f"layer {name!r} has {channels} channels; each part needs some", mend="keep it whole"
        )
    order = np.argsort(in_float, kind="stable")
    readers = _readers(graph, layer.output[0])
    for reader in readers or []:
        _permute_reader(graph, reader, order)
    split = _rewrite(graph, layer, order, channels - int(in_float.sum()), readers is not None)
    drop_unused_constants(graph.model)
    model = onnx.shape_inference.infer_shapes(graph.model)
    return FloatGraph.index(model, graph.sha256), split


def _readers(graph: FloatGraph, tensor: str) -> list[onnx.NodeProto] | None:
    """Return the nodes whose weights must follow a new order of a tensor's channels, None if one cannot."""
    if tensor in graph.outputs:
        return None
    found: list[onnx.NodeProto] = []
    for node in graph.consumers.get(tensor, []):
        further = _follow(graph, node, tensor)
        if further is None:
            return None
        found += further
    return found


def _follow(graph: FloatGraph, node: onnx.NodeProto, tensor: str) -> list[onnx.NodeProto] | None:
    if node.input[0] != tensor or list(node.input).count(tensor) != 1:
        return None
    if node.op_type in CHANNELWISE or (node.op_type == "Flatten" and _is_vector(graph, tensor)):
        return _readers(graph, node.output[0])
    if node.op_type not in ("Conv", "Gemm", "MatMul") or not _owns_constants(graph, node):
        return None
    if node.op_type != "Conv":
        return None if attribute(node, "transA", 0) else [node]
    if attribute(node, "group", 1) == 1:
        return [node]
    if attribute(node, "group", 1) == graph.constants[node.input[1]].dims[0]:
        further = _readers(graph, node.output[0])
        return None if further is None else [node, *further]
    return None


def _is_vector(graph: FloatGraph, tensor: str) -> bool:
    """Say whether a tensor has one value a channel, so that flattening keeps the order of the channels."""
    producer = graph.producers.get(tensor)
    while producer is not None and producer.op_type in CHANNELWISE - {"GlobalAveragePool"}:
        producer = graph.producers.get(producer.input[0])
    return producer is not None and producer.op_type == "GlobalAveragePool"


def _owns_constants(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    return all(name in graph.constants and len(graph.consumers[name]) == 1 for name in node.input[1:] if name)


def _permute_reader(graph: FloatGraph, node: onnx.NodeProto, order: Order) -> None:
    """Make a node expect its input channels in a new order."""
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
        for name in node.input[1:]:
            _take(graph, name, order, 0)
        return
    axis = 1 if node.op_type == "Conv" or attribute(node, "transB", 0) else 0
    _take(graph, node.input[1], order, axis)


def _take(graph: FloatGraph, name: str, order: Order, axis: int) -> None:
    value = np.take(numpy_helper.to_array(graph.constants[name]), order, axis)
    graph.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))


def _rewrite(graph: FloatGraph, layer: onnx.NodeProto, order: Order, count: int, folded: bool) -> Split:
    """Put the two parts, Concat and perhaps Gather in the place of a layer and the activation behind it."""
    nodes = list(graph.model.graph.node)
    follower = _activation(graph, layer)
    end = layer if follower is None else follower
    parts, tensors = [], []
    for label, chosen in ("int8", order[:count]), ("float", order[count:]):
        part = _part(graph, layer, chosen, label)
        tensors.append(part[-1].output[0])
        if follower is not None:
            copy = helper.make_node(
                follower.op_type, [tensors[-1], *follower.input[1:]], [f"{end.output[0]}/{label}"]
            )
            copy.name = f"{follower.name}/{label}"
            copy.attribute.extend(follower.attribute)
            part.append(copy)
            tensors[-1] = copy.output[0]
        parts += part
    joined = end.output[0] if folded else f"{end.output[0]}/sorted"
    parts.append(helper.make_node("Concat", tensors, [joined], f"{layer.name}/concat", axis=1))
    if not folded:
        back = f"{layer.name}/order"
        graph.model.graph.initializer.append(numpy_helper.from_array(np.argsort(order), back))
        parts.append(
            helper.make_node("Gather", [joined, back], [end.output[0]], f"{layer.name}/gather", axis=1)
        )
    place = nodes.index(end)
    kept = [*nodes[:place], *parts, *nodes[place + 1 :]]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(node for node in kept if node.name != layer.name)
    return Split(f"{layer.name}/int8", f"{layer.name}/float", folded)


def _activation(graph: FloatGraph, layer: onnx.NodeProto) -> onnx.NodeProto | None:
    readers = graph.consumers.get(layer.output[0], [])
    alone = len(readers) == 1 and layer.output[0] not in graph.outputs
    return readers[0] if alone and readers[0].op_type in ACTIVATIONS else None


def _part(graph: FloatGraph, layer: onnx.NodeProto, chosen: Order, label: str) -> list[onnx.NodeProto]:
    """Return the nodes of one part; float weights are stored in 16 bits and cast."""
    body = graph.model.graph
    node = onnx.NodeProto()
    node.CopyFrom(layer)
    node.name, node.output[0] = f"{layer.name}/{label}", f"{layer.output[0]}/{label}"
    before = []
    for index, name in enumerate(layer.input[1:], 1):
        value = np.ascontiguousarray(numpy_helper.to_array(graph.constants[name])[chosen])
        node.input[index] = f"{name}/{label}"
        if label == "float" and index == 1:
            body.initializer.append(numpy_helper.from_array(value.astype(np.float16), f"{name}/float16"))
            before.append(
                helper.make_node(
                    "Cast", [f"{name}/float16"], [node.input[1]], f"{name}/cast", to=TensorProto.FLOAT
                )
            )
        else:
            body.initializer.append(numpy_helper.from_array(value, node.input[index]))
    return [*before, node]
