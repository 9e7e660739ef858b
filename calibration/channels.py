"""Which channels of which tensors are the same channel: what may be scaled together without changing the net.

ReLU, pooling and addition commute with a positive factor a channel, and layers undo it in their weights. So
every channel that only such operators pass on can be rescaled exactly (Nagel et al., "Data-free quantization
through weight equalization and bias correction", 2019, section 4.1, here for whole graphs).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.graph import FloatGraph, attribute, output_axis

Ids = NDArray[np.int64]

# y(s·x) = s·y(x) for s > 0, channel by channel.
HOMOGENEOUS = frozenset({"AveragePool", "GlobalAveragePool", "Identity", "MaxPool", "Relu"})
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass
class Channels:
    """The channel variables of a graph.

    Args:
        tensors: float tensor name → int64 [C], the variable of each channel of axis 1.
        parents: variable → a variable it equals, itself at the end of the chain.
        frozen: variables that nothing may scale: inputs, outputs, what other operators read.
        limits: variables behind a Clip at 0 and a positive bound → that bound.
        ranks: float tensor name → number of its axes.
        mixed: variables that some layer adds up with others, under one weight scale (a depthwise one does
            not).
    """

    tensors: dict[str, Ids] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    frozen: set[int] = field(default_factory=set)
    limits: dict[int, float] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    mixed: set[int] = field(default_factory=set)

    def new(self, count: int) -> Ids:
        """Return variables for that many channels."""
        ids = np.arange(len(self.parents), len(self.parents) + count)
        self.parents.extend(ids.tolist())
        return ids

    def root(self, variable: int) -> int:
        """Return the variable that stands for all that equal this one."""
        while self.parents[variable] != variable:
            self.parents[variable] = self.parents[self.parents[variable]]
            variable = self.parents[variable]
        return variable

    def roots(self, tensor: str) -> Ids:
        """Return the variables of a tensor's channels, int64 [C]."""
        return np.array([self.root(item) for item in self.tensors[tensor].tolist()], np.int64)

    def unite(self, first: Ids, second: Ids) -> None:
        """Make channels equal, one by one."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self.root(one)] = self.root(other)

    def freeze(self, tensors: Iterable[str]) -> None:
        """Fix the scale of every channel of these tensors."""
        for name in tensors:
            self.frozen.update(self.tensors.get(name, np.empty(0, np.int64)).tolist())

    def free(self) -> set[int]:
        """Return the variables that may be scaled."""
        fixed = {self.root(item) for item in self.frozen}
        return {self.root(item) for item in range(len(self.parents))} - fixed

    def mixes(self) -> set[int]:
        """Return the variables whose scale decides how finely a layer's weights are quantized."""
        return {self.root(item) for item in self.mixed}

    def bounds(self) -> dict[int, float]:
        """Return the smallest Clip bound of every variable that has one."""
        smallest: dict[int, float] = {}
        for variable, bound in self.limits.items():
            root = self.root(variable)
            smallest[root] = min(bound, smallest.get(root, bound))
        return smallest


def find_channels(graph: FloatGraph) -> Channels:
    """Find which channels have to be scaled together, and which not at all.

    Args:
        graph: prepared float model, with inferred shapes.
    """
    shapes = _shapes(graph)
    widths = {name: dims[1] for name, dims in shapes.items() if len(dims) > 1 and dims[1] > 0}
    found = Channels(ranks={name: len(dims) for name, dims in shapes.items()})
    for value in graph.inputs:
        if value.name in widths:
            found.tensors[value.name] = found.new(widths[value.name])
            found.freeze([value.name])
    for node in graph.nodes:
        for name in node.output:
            if name in widths:
                found.tensors[name] = found.new(widths[name])
        if not _tie(graph, node, found):
            found.freeze([*node.input, *node.output])
    found.freeze(graph.outputs)
    return found


def layer_channels(graph: FloatGraph, layer: onnx.NodeProto) -> tuple[int, int] | None:
    """Return the axes of input and output channels in a layer's weights, None when it cannot be rescaled.

    A grouped convolution keeps only its own group's inputs on axis 1; the caller repeats them.
    """
    if layer.op_type not in LAYERS:
        return None
    shared = len(graph.consumers.get(layer.input[1], [])) > 1
    bias = graph.bias(layer)
    if layer.input[1] not in graph.constants or shared or (bias and bias not in graph.constants):
        return None
    if bias and (len(graph.consumers.get(bias, [])) > 1 or len(graph.constants[bias].dims) != 1):
        return None
    if layer.op_type == "ConvTranspose" and attribute(layer, "group", 1) != 1:
        return None
    if layer.op_type == "Gemm" and attribute(layer, "transA", 0):
        return None
    axis = output_axis(layer)
    return 1 - axis, axis


def _tie(graph: FloatGraph, node: onnx.NodeProto, found: Channels) -> bool:
    """Tie a node's output channels to its inputs'; return whether both may be scaled."""
    tensors, kind, output = found.tensors, node.op_type, node.output[0]
    floats = [name for name in node.input if name in graph.floats]
    if output not in tensors or not floats or any(name not in tensors for name in floats):
        return False
    if kind in LAYERS:
        if int(attribute(node, "group", 1)) < len(tensors[node.input[0]]):
            found.mixed.update(tensors[node.input[0]].tolist())
        return layer_channels(graph, node) is not None
    if kind in HOMOGENEOUS or kind == "Flatten":
        found_same = len(tensors[floats[0]]) == len(tensors[output])
        return found_same and _unite_all(found, floats, output)
    if kind == "Clip":
        return _tie_clip(graph, node, found)
    if kind == "Add":
        ends = (*floats, output)
        same = len({len(tensors[name]) for name in ends}) == len({found.ranks[name] for name in ends}) == 1
        return len(floats) == 2 and same and _unite_all(found, floats, output)
    if kind == "Concat" and attribute(node, "axis", 0) == 1 and len(floats) == len(node.input):
        found.unite(np.concatenate([tensors[name] for name in floats]), tensors[output])
        return True
    return False


def _unite_all(found: Channels, inputs: list[str], output: str) -> bool:
    for name in inputs:
        found.unite(found.tensors[name], found.tensors[output])
    return True


def _tie_clip(graph: FloatGraph, node: onnx.NodeProto, found: Channels) -> bool:
    bounds = [graph.constant(name) for name in node.input[1:3]]
    if len(bounds) != 2 or any(bound is None or bound.size != 1 for bound in bounds):
        return False
    low, high = (float(bound.reshape(-1)[0]) for bound in bounds if bound is not None)
    if low != 0.0 or high <= 0.0:
        return False
    found.limits.update(dict.fromkeys(found.tensors[node.output[0]].tolist(), high))
    return _unite_all(found, [node.input[0]], node.output[0])


def _shapes(graph: FloatGraph) -> dict[str, list[int]]:
    """Return the shape of every float tensor that has a known one, 0 where an axis is free."""
    body = graph.model.graph
    return {
        value.name: [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in [*body.input, *body.value_info, *body.output]
        if value.name in graph.floats and value.type.tensor_type.HasField("shape")
    }
