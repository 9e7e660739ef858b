"""Constants a channel that one layer subtracts from a tensor and the layers behind it add again.

The bias takes the constant away, readers' biases put W · constant back: exact wherever no reader pads the
tensor with zeros. Sums, pooling and concatenation pass the constants on.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.biases import add_to_bias
from calibration.channels import find_channels, layer_channels
from calibration.graph import FloatGraph, attribute
from calibration.rows import has_rows, to_rows

Array = NDArray[np.float64]

# They commute with adding a constant; what MaxPool pads with is never the largest.
PASSING = frozenset({"Flatten", "GlobalAveragePool", "Identity", "MaxPool"})


class Shifts:
    """Which tensors of a graph may be shifted, and by how much they are.

    Args:
        graph: prepared float model.
    """

    def __init__(self, graph: FloatGraph) -> None:
        self._graph = graph
        self._widths = {name: len(ids) for name, ids in find_channels(graph).tensors.items()}
        self._movable: set[str] = set()
        self._amounts: dict[str, Array] = {}
        for node in reversed(graph.nodes):
            if self._readers_undo(node.output[0]):
                self._movable.add(node.output[0])

    def may_move(self, tensor: str) -> bool:
        """Say whether all readers of a tensor undo a shift, or pass it on to such as do."""
        return tensor in self._movable

    def amount(self, tensor: str) -> Array:
        """Return what has been subtracted from each channel of a tensor, [C]."""
        return self._amounts.get(tensor, np.zeros(self._widths.get(tensor, 1)))

    def subtract(self, tensor: str, amount: Array) -> None:
        """Note what a layer or activation function subtracts from its output, [C]."""
        self._amounts[tensor] = amount

    def follow(self, node: onnx.NodeProto) -> None:
        """Carry the inputs' shifts over to a node's output; nodes have to come in graph order."""
        if not any(name in self._amounts for name in node.input):
            return
        amounts = [self.amount(name) for name in node.input]
        if node.op_type == "Add":
            self._amounts[node.output[0]] = amounts[0] + amounts[1]
        elif node.op_type == "Concat":
            self._amounts[node.output[0]] = np.concatenate(amounts)
        elif node.op_type in PASSING:
            self._amounts[node.output[0]] = amounts[0]

    def apply(self) -> dict[str, Array]:
        """Write the shifts into the biases; return tensor → what was subtracted, where anything was."""
        for node in self._graph.nodes:
            if layer_channels(self._graph, node) is None:
                continue
            change = self._undone(node) - self._taken(node)
            if np.any(change):
                add_to_bias(self._graph, node, change)
        return {name: amount for name, amount in self._amounts.items() if np.any(amount)}

    def _readers_undo(self, name: str) -> bool:
        readers = self._graph.consumers.get(name, [])
        if not readers or name in self._graph.outputs or name not in self._widths:
            return False
        return all(self._undoes(reader, name) for reader in readers)

    def _undoes(self, reader: onnx.NodeProto, name: str) -> bool:
        output = reader.output[0]
        if reader.op_type in PASSING:
            return output in self._movable and self._widths[output] == self._widths[name]
        if reader.op_type == "Add":
            floats = all(item in self._graph.floats for item in reader.input)
            return floats and output in self._movable and self._same_width(reader)
        if reader.op_type == "Concat":
            return output in self._movable and attribute(reader, "axis", 0) == 1
        return reader.input[0] == name and self._adds_back(reader)

    def _same_width(self, add: onnx.NodeProto) -> bool:
        return len({self._widths.get(name, 0) for name in (*add.input, *add.output)}) == 1

    def _adds_back(self, layer: onnx.NodeProto) -> bool:
        if layer_channels(self._graph, layer) is None or not has_rows(layer):
            return False
        pads = next((list(item.ints) for item in layer.attribute if item.name == "pads"), [0])
        automatic = next((item.s for item in layer.attribute if item.name == "auto_pad"), b"NOTSET")
        return not any(pads) and automatic in (b"NOTSET", b"VALID")

    def _undone(self, layer: onnx.NodeProto) -> Array:
        """Return what a layer's bias has to gain because its input is shifted, [C]."""
        shift = self._amounts.get(layer.input[0])
        if shift is None:
            return np.zeros(1)
        rows = np.asarray(to_rows(layer, np.asarray(self._graph.constant(layer.input[1]))), np.float64)
        taps = rows.shape[2] * rows.shape[0] // len(shift)
        inputs = np.repeat(shift, taps).reshape(rows.shape[0], rows.shape[2])
        return np.asarray(np.einsum("grd,gd->gr", rows, inputs).reshape(-1))

    def _taken(self, layer: onnx.NodeProto) -> Array:
        """Return what a layer, or the activation function it alone feeds, subtracts, [C]."""
        name = layer.output[0]
        readers = self._graph.consumers.get(name, [])
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            name = readers[0].output[0]
        return self._amounts.get(name, np.zeros(1))
