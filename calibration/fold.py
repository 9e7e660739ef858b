"""Fold what a simplifier left: batch normalisation into the layer before it, zero padding into Conv.

Both are exact up to float rounding; computed in float64.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.graph import FloatGraph, attribute, drop_unused_constants, output_axis

Array = NDArray[np.float64]


def fold_batch_norms(graph: FloatGraph) -> None:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm that alone feeds it, in place.

    y = (x − mean) · γ / √(var + ε) + β becomes part of the layer's weights and bias; the layer then computes
    the tensor that bore the normalisation's name. One that cannot be folded stays as it is.
    """
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        layer = graph.producers.get(norm.input[0])
        if layer is not None and _sole_reader(graph, layer) and not attribute(norm, "training_mode", 0):
            _fold_one(graph, layer, norm)
    drop_unused_constants(graph.model)


def fold_pads(graph: FloatGraph) -> None:
    """Fold each Pad with zeros over spatial axes into the `pads` of the Conv nodes it feeds, in place.

    TensorRT's rule forbids Q/DQ between Pad and Conv; without the Pad no runtime has to look through it.
    """
    for pad in [node for node in graph.nodes if node.op_type == "Pad"]:
        pads = _zero_spatial_pads(graph, pad)
        readers = graph.consumers.get(pad.output[0], [])
        if pads is None or pad.output[0] in graph.outputs or not readers:
            continue
        if all(_takes_pads(reader, pad.output[0]) for reader in readers):
            for conv in readers:
                _add_pads(conv, pads)
                conv.input[0] = pad.input[0]
            graph.model.graph.node.remove(pad)
    drop_unused_constants(graph.model)


def _sole_reader(graph: FloatGraph, layer: onnx.NodeProto) -> bool:
    output = layer.output[0]
    return len(graph.consumers[output]) == 1 and output not in graph.outputs


def _fold_one(graph: FloatGraph, layer: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    parameters = [graph.constant(name) for name in norm.input[1:5]]
    if layer.op_type not in ("Conv", "ConvTranspose", "Gemm") or any(value is None for value in parameters):
        return
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in parameters)
    weight, bias = graph.constant(layer.input[1]), _bias(graph, layer, len(gamma))
    if weight is None or bias is None:
        return
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    output = norm.output[0]
    weight_name = _add(
        graph, f"{output}.weight", _scale_outputs(layer, np.asarray(weight, np.float64), factor)
    )
    bias_name = _add(graph, f"{output}.bias", (bias - mean) * factor + beta)
    del layer.input[1:]
    layer.input.extend([weight_name, bias_name])
    for item in [item for item in layer.attribute if item.name == "beta"]:
        layer.attribute.remove(item)
    layer.output[0] = output
    graph.producers[output] = layer
    graph.model.graph.node.remove(norm)


def _bias(graph: FloatGraph, layer: onnx.NodeProto, channels: int) -> Array | None:
    """Return the bias the layer adds, [channels], or None when it is not one value a channel."""
    name = graph.bias(layer)
    if not name:
        return np.zeros(channels)
    value = graph.constant(name)
    if value is None or value.shape[-1:] not in ((), (1,), (channels,)) or value.size not in (1, channels):
        return None
    if value.size != int(np.prod(value.shape[-1:])):
        return None
    scale = attribute(layer, "beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.broadcast_to(scale * np.asarray(value, np.float64).reshape(-1), (channels,))


def _scale_outputs(layer: onnx.NodeProto, weight: Array, factor: Array) -> Array:
    spatial = (1,) * (weight.ndim - 2)
    if layer.op_type == "ConvTranspose":
        groups = int(attribute(layer, "group", 1))
        per_input = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return weight * per_input.reshape(*per_input.shape, *spatial)
    shape = (-1, 1) if output_axis(layer) == 0 else (1, -1)
    return weight * factor.reshape(*shape, *spatial)


def _add(graph: FloatGraph, name: str, value: Array) -> str:
    name = graph.fresh(name)
    tensor = numpy_helper.from_array(value.astype(np.float32), name)
    graph.model.graph.initializer.append(tensor)
    graph.constants[name] = tensor
    return name


def _zero_spatial_pads(graph: FloatGraph, pad: onnx.NodeProto) -> list[int] | None:
    """Return [begin…, end…] over the spatial axes, or None when the Pad does anything else."""
    mode = next((item.s for item in pad.attribute if item.name == "mode"), b"constant")
    amounts = graph.constant(pad.input[1])
    fill = graph.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    has_axes = len(pad.input) > 3 and pad.input[3]
    if mode != b"constant" or amounts is None or fill is None or np.any(fill) or has_axes:
        return None
    begin, end = np.asarray(amounts, np.int64).reshape(2, -1)
    if (begin < 0).any() or (end < 0).any() or begin[:2].any() or end[:2].any():
        return None
    return [int(value) for value in (*begin[2:], *end[2:])]


def _takes_pads(node: onnx.NodeProto, tensor: str) -> bool:
    return (
        node.op_type == "Conv"
        and node.input[0] == tensor
        and list(node.input).count(tensor) == 1
        and _auto_pad(node) in (b"NOTSET", b"VALID")
    )


def _auto_pad(conv: onnx.NodeProto) -> bytes:
    return next((item.s for item in conv.attribute if item.name == "auto_pad"), b"NOTSET")


def _add_pads(conv: onnx.NodeProto, pads: list[int]) -> None:
    explicit = _auto_pad(conv) == b"NOTSET"
    for item in [item for item in conv.attribute if item.name in ("auto_pad", "pads")]:
        if item.name == "pads" and explicit:
            pads = [old + new for old, new in zip(item.ints, pads, strict=True)]
        conv.attribute.remove(item)
    conv.attribute.append(onnx.helper.make_attribute("pads", pads))
