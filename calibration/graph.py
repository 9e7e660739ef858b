"""A float ONNX model and the maps by which calibration and quantization walk it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


@dataclass
class FloatGraph:
    """A model and the maps every step asks for.

    Args:
        model: constants are initializers, every node has a name, shapes are inferred.
        sha256: digest of the file it was read from.
        constants: initializer name → tensor.
        producers: tensor name → the node that computes it.
        consumers: tensor name → the nodes that read it, in graph order, once per reading input.
        floats: names of the float32 tensors computed at run time, model inputs included.
    """

    model: onnx.ModelProto
    sha256: str
    constants: dict[str, onnx.TensorProto]
    producers: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    floats: frozenset[str]

    @classmethod
    def index(cls, model: onnx.ModelProto, sha256: str) -> FloatGraph:
        """Build the maps of a model; `floats` is complete only after shape inference."""
        graph = model.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        typed = [*graph.input, *graph.value_info, *graph.output]
        return cls(
            model=model,
            sha256=sha256,
            constants=constants,
            producers={name: node for node in graph.node for name in node.output},
            consumers=consumers,
            floats=frozenset(
                value.name
                for value in typed
                if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in constants
            ),
        )

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes in graph order, which ONNX demands to be topological."""
        return list(self.model.graph.node)

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What a caller has to feed: the graph inputs that are not initializers."""
        return [value for value in self.model.graph.input if value.name not in self.constants]

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Return the value of an initializer, or None when the tensor is computed at run time."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def bias(self, layer: onnx.NodeProto) -> str:
        """Return the name of a layer's bias, "" when it has none."""
        return layer.input[2] if len(layer.input) > 2 else ""

    def fresh(self, name: str) -> str:
        """Return the name, primed until no tensor of the model has it."""
        while name in self.constants or name in self.producers or name in self.consumers:
            name += "'"
        return name


def attribute(node: onnx.NodeProto, name: str, default: int | float) -> int | float:
    """Return a node's int or float attribute, or the default when it is not written."""
    for item in node.attribute:
        if item.name == name:
            value: int | float = onnx.helper.get_attribute_value(item)
            return value
    return default


def output_axis(layer: onnx.NodeProto) -> int:
    """Return the axis of the output channels in a layer's weights (Conv, ConvTranspose, Gemm, 2-D MatMul).

    A grouped ConvTranspose keeps [C_in, C_out / groups, …]: the groups share the channels of axis 1.
    """
    if layer.op_type == "Gemm":
        return 0 if attribute(layer, "transB", 0) else 1
    return 0 if layer.op_type == "Conv" else 1


def drop_unused_constants(model: onnx.ModelProto) -> None:
    """Remove initializers that no node, subgraph or graph output reads."""
    used = {value.name for value in model.graph.output}
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            used.update(node.input)
            graphs += [item.g for item in node.attribute if item.type == onnx.AttributeProto.GRAPH]
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
