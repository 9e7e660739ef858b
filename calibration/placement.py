"""Where Q/DQ pairs go: which tensors are quantized, who reads them, which of them share one scale.

A tensor is quantized because somebody *wants* it in INT8. The wish starts at the layers and pools and
travels backwards through operators that only move values, so one walk in reverse graph order settles it.
docs/quantization.md names the runtime behind every rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx

from calibration.graph import FloatGraph
from calibration.ignore import Ignore

# Layers: input 0 in INT8, input 1 constant weights in INT8 per output channel.
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Values are averaged: the input is quantized, the output only where the next reader wants it.
POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
# Values are moved or chosen, never computed: output and input have the same scale.
MOVERS = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# Runtimes fuse these into the layer or Add before them.
ACTIVATIONS = frozenset({"Clip", "Relu"})


@dataclass(frozen=True)
class Layer:
    """A node whose weights are quantized.

    Args:
        node: Conv, ConvTranspose, Gemm or MatMul.
        source: the quantized tensor its input has its scale from (before a Pad, where there is one).
    """

    node: onnx.NodeProto
    source: str


@dataclass(frozen=True)
class KeptFloat:
    """A node that stays in float, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go.

    Args:
        tensors: float tensors that get one Q/DQ pair each, in graph order.
        reads: (node's first output, input index) that read the dequantized tensor.
        groups: tensors sharing one scale → the tensors whose values decide it; every quantized tensor is
            in one group.
        layers: nodes whose weights are quantized, in graph order.
        kept_float: the rest of the float nodes, with reasons.
    """

    tensors: tuple[str, ...]
    reads: frozenset[tuple[str, int]]
    groups: dict[tuple[str, ...], tuple[str, ...]]
    layers: tuple[Layer, ...]
    kept_float: tuple[KeptFloat, ...]


def place(graph: FloatGraph, residual_inputs: bool = True, ignore: Iterable[str] = ()) -> Placement:
    """Decide where the Q/DQ pairs of a model go.

    Args:
        graph: prepared float model.
        residual_inputs: both inputs of an Add are quantized (TensorRT's rule). Otherwise the input that a
            layer computes for this Add alone stays float, so that the runtime can fuse layer and Add.
        ignore: node names, operator types or regular expressions over whole node names; they stay float.

    Raises:
        ConfigError: an ignore rule is not a regular expression or fits no node.
    """
    walk = _Walk(graph, residual_inputs, Ignore.parse(ignore, graph))
    for node in reversed(graph.nodes):
        walk.visit(node)
    return walk.result()


@dataclass
class _Walk:
    graph: FloatGraph
    residual_inputs: bool
    ignore: Ignore
    wanted: set[str] = field(default_factory=set)
    derived: set[str] = field(default_factory=set)
    reads: set[tuple[str, int]] = field(default_factory=set)
    parents: dict[str, str] = field(default_factory=dict)
    kept: list[KeptFloat] = field(default_factory=list)

    def visit(self, node: onnx.NodeProto) -> None:
        """Note which inputs of a node are wanted in INT8; its readers have all been visited."""
        # A Pad is never quantized itself, so there is nothing to ignore: Q/DQ may not follow it either way.
        rule = "" if node.op_type == "Pad" else self.ignore.rule(node)
        reason = f"ignored by {rule!r}" if rule else self.want(node)
        if reason and any(name in self.graph.floats for name in node.output):
            self.kept.append(KeptFloat(node.name, node.op_type, reason))

    def want(self, node: onnx.NodeProto) -> str:
        """Apply the operator's rule; return why the node stays float, "" when it does not."""
        kind = node.op_type
        if kind in LAYERS:
            return self.want_layer(node)
        if kind in POOLS:
            return self.read(node, 0)
        if kind == "Add":
            return self.want_sum(node)
        if kind in MOVERS or kind in ("Concat", "Pad"):
            return self.want_same_scale(node)
        if kind in ACTIVATIONS and self.fuses(node):
            return ""
        return f"{kind} has no INT8 form here"

    def want_layer(self, layer: onnx.NodeProto) -> str:
        weight = self.graph.constants.get(layer.input[1])
        if weight is None:
            return "its weights are computed at run time"
        if layer.op_type == "MatMul" and len(weight.dims) != 2:
            return "its weights do not have two dimensions"
        return self.read(layer, 0)

    def want_sum(self, add: onnx.NodeProto) -> str:
        if not all(name in self.graph.floats for name in add.input):
            return "one of its inputs is constant: a bias or an offset"
        fused = None if self.residual_inputs else self.fused_input(add)
        for index in range(len(add.input)):
            if index != fused:
                self.read(add, index)
        return ""

    def want_same_scale(self, node: onnx.NodeProto) -> str:
        output = node.output[0]
        inputs = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        if output not in self.wanted:
            return "nothing in INT8 reads its output"
        if not all(name in self.graph.floats for name in inputs):
            return "one of its inputs is constant"
        self.derived.add(output)
        for index, name in enumerate(inputs):
            self.read(node, index)
            self.parents[self.root(name)] = self.root(output)
        return ""

    def read(self, node: onnx.NodeProto, index: int) -> str:
        name = node.input[index]
        if name not in self.graph.floats:
            return "its input is not float32 computed at run time"
        self.wanted.add(name)
        self.reads.add((node.output[0], index))
        return ""

    def root(self, name: str) -> str:
        while self.parents.get(name, name) != name:
            name = self.parents[name]
        return name

    def fuses(self, activation: onnx.NodeProto) -> bool:
        producer = self.graph.producers.get(activation.input[0])
        return producer is not None and producer.op_type in LAYERS | {"Add"}

    def fused_input(self, add: onnx.NodeProto) -> int | None:
        """Return the last input that a layer computes for this Add alone, None when there is none."""
        for index in reversed(range(len(add.input))):
            name = add.input[index]
            producer = self.graph.producers.get(name)
            if producer is not None and producer.op_type in LAYERS and len(self.graph.consumers[name]) == 1:
                return index
        return None

    def unpadded(self, name: str) -> str:
        """Return the tensor whose pair a reader of `name` gets: Pad carries none of its own."""
        producer = self.graph.producers.get(name)
        while producer is not None and producer.op_type == "Pad" and name in self.derived:
            name = producer.input[0]
            producer = self.graph.producers.get(name)
        return name

    def result(self) -> Placement:
        order = [value.name for value in self.graph.inputs]
        order += [name for node in self.graph.nodes for name in node.output]
        wanted = [name for name in order if name in self.wanted]
        members: dict[str, list[str]] = {}
        for name in wanted:
            members.setdefault(self.root(name), []).append(name)
        paired = [name for name in wanted if self.unpadded(name) == name]
        groups = {}
        for group in members.values():
            sources = tuple(name for name in group if name not in self.derived)
            groups[tuple(name for name in group if name in paired)] = sources
        return Placement(
            tensors=tuple(paired),
            reads=frozenset(self.final_reads(set(paired))),
            groups=groups,
            layers=tuple(
                Layer(node, self.unpadded(node.input[0]))
                for node in self.graph.nodes
                if node.op_type in LAYERS and (node.output[0], 0) in self.reads
            ),
            kept_float=tuple(reversed(self.kept)),
        )

    def final_reads(self, paired: set[str]) -> Iterable[tuple[str, int]]:
        """Keep the reads of tensors that have a pair; readers behind a Pad take the Pad's output."""
        for output, index in self.reads:
            if self.graph.producers[output].input[index] in paired:
                yield output, index
