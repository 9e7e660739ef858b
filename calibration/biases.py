"""Add to the bias of a layer; a layer that has none gets one."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.channels import layer_channels
from calibration.graph import FloatGraph, attribute


def give_biases(graph: FloatGraph) -> None:
    """Give every layer that may have a bias one of zeros, in place, so that it can be corrected later."""
    for node in graph.nodes:
        axes = layer_channels(graph, node)
        if axes is not None and not graph.bias(node):
            add_to_bias(graph, node, np.zeros(graph.constants[node.input[1]].dims[axes[1]]))


def add_to_bias(graph: FloatGraph, layer: onnx.NodeProto, change: NDArray[np.float64]) -> None:
    """Add to a layer's bias, in place.

    Args:
        graph: prepared float model.
        layer: Conv, ConvTranspose or Gemm that shares neither weights nor bias with another.
        change: [C].
    """
    old = graph.constant(graph.bias(layer))
    scale = attribute(layer, "beta", 1.0)
    value = change if old is None else np.asarray(old, np.float64) * scale + change
    name = graph.bias(layer) or graph.fresh(f"{layer.output[0]}.bias")
    tensor = graph.constants.get(name) or graph.model.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    graph.constants[name] = tensor
    del layer.input[2:]
    layer.input.append(name)
    for item in [item for item in layer.attribute if item.name == "beta"]:
        layer.attribute.remove(item)
