"""Convolutions and matrix products of a model, and which of a runtime's operators each became."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from pipeline.onnxmodel.macs import nodes_with_macs

# Operators that runtimes fuse into the convolution or matrix product before them.
FUSED = re.compile(
    r"Add|BatchNormalization|Clip|Elu|Gelu|Hard(Sigmoid|Swish)|LeakyRelu|Mish|Mul|PRelu|Relu|Sigmoid|Softplus|"
    r"Squeeze|Sub|Tanh|(De)?[Qq]uantizeLinear"
)
# Kinds of a runtime's operators that are convolutions or matrix products, whatever it calls them.
COMPUTING = re.compile(r"conv|gemm|matmul|fullyconnected", re.IGNORECASE)
# What runtimes put behind a node's or tensor's name.
SUFFIX = re.compile(r"(/WithoutBiases.*|_nchwc|_nhwc|_token_\d+)+$")
BITS: dict[int, int] = {onnx.TensorProto.INT8: 8, onnx.TensorProto.UINT8: 8, onnx.TensorProto.FLOAT16: 16}
BITS |= {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product.

    Args:
        name: of the node, or of its output where it has none.
        channels: of its output.
        weights_per_channel: elements of the weight behind one of them.
        macs: multiply-accumulates of one inference.
        weight_bits: of the stored weight; 32 for one that another operator computes.
    """

    name: str
    channels: int
    weights_per_channel: int
    macs: int
    weight_bits: int


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers of a float or QDQ model in its own order.

    Args:
        model: as `read_model` returns it.

    Raises:
        ModelError: a shape cannot be inferred.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node, macs, shape in nodes_with_macs(model):
        tensor = _stored(node.input[1], stored, makers)
        channels = shape[1] if node.op_type.startswith("Conv") else shape[-1]
        elements = 1
        for length in tensor.dims if tensor else ():
            elements *= length
        found.append(
            Layer(
                name=node.name or node.output[0],
                channels=channels,
                weights_per_channel=max(1, elements // max(channels, 1)),
                macs=macs,
                weight_bits=BITS.get(tensor.data_type, 32) if tensor else 32,
            )
        )
    return found


def join(times: Sequence[Mapping[str, Any]], model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Say of every operator a runtime timed which layers of the model are in it.

    Args:
        times: name, kind and median_ms of each operator.
        model: what the engine was compiled from.

    Returns:
        the record's `LayerTime`s, longest first; channels, MACs and bits where a layer was found.
    """
    total = sum(each["median_ms"] for each in times) or 1.0
    layers = {layer.name: layer for layer in layers_of(model)}
    owners = _owners(model, set(layers))
    joined = []
    for each in times:
        row = {**each, "share": min(each["median_ms"] / total, 1.0)}
        parts = (SUFFIX.sub("", each["name"]), *each["name"].split(" + "))
        name = next((owners[part] for part in parts if part in owners), None)
        name = name if COMPUTING.search(each["kind"]) else None
        if name:
            layer = layers[name]
            row |= {"nodes": [name], "channels": layer.channels, "macs": layer.macs}
            row |= {"weight_bits": layer.weight_bits}
        joined.append(row)
    return joined


def _owners(model: onnx.ModelProto, layers: set[str]) -> dict[str, str]:
    """Names of nodes and tensors → the layer whose fused operator may carry that name.

    Where two layers meet in an addition, it belongs to the later one: the other's result is there already.
    """
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    owners: dict[str, str] = {}
    for node in model.graph.node:
        layer = node.name or node.output[0]
        if layer not in layers:
            continue
        waiting = [node]
        while waiting:
            current = waiting.pop()
            owners |= dict.fromkeys((current.name, *current.output), layer)
            following = [reader for output in current.output for reader in readers[output]]
            waiting += [
                reader for reader in following if len(following) == 1 and FUSED.fullmatch(reader.op_type)
            ]
    return owners


def _stored(
    name: str, stored: Mapping[str, onnx.TensorProto], makers: Mapping[str, onnx.NodeProto]
) -> onnx.TensorProto | None:
    """The stored tensor behind a weight, through DequantizeLinear, Cast and reshaping operators."""
    while name not in stored:
        node = makers.get(name)
        if node is None or node.op_type not in (
            "DequantizeLinear",
            "QuantizeLinear",
            "Cast",
            "Reshape",
            "Transpose",
        ):
            return None
        name = node.input[0]
    return stored[name]
