"""Repair a quantized network layer by layer: weights rounded for the least output error, biases corrected.

The layers are taken in order, each on what the already repaired network before it really computes. The
weights' errors are made to cancel in the layer's output (`compensate`), and the mean error that is left, of
weights and activations, goes into the bias (Nagel et al., 2019, section 4.2, empirical form). Positions count
by how much errors there matter (`positions`): a mean over all of them would chase outliers that ranges were
chosen to clip. Where wanted, weights also make good what earlier layers got wrong (`drift`). That fits whole
rows of weights and needs many positions, so there all count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.compensate import compensated, damped, output_error
from calibration.drift import absorb
from calibration.graph import FloatGraph, attribute
from calibration.grid import Grid
from calibration.moments import Moments, halves
from calibration.ranges import Batch
from calibration.rows import from_rows, has_rows, to_rows
from calibration.stepper import Stepper, Values
from calibration.summary import QuantizedLayer
from calibration.weights import BIAS_LIMIT, sqnr_db

Array = NDArray[np.float64]
Rounding = Literal["nearest", "compensated", "absorbing"]
# Added to the diagonal of the inputs' covariance, relative to its mean.
DAMPING = 0.01
# Positions of an image that moments are taken from.
POSITIONS = 200


def takes_weights(rounding: Rounding) -> bool:
    """Say whether positions count by how much errors there matter, and not all alike."""
    return rounding != "absorbing"


def repair(
    graph: FloatGraph,
    quantized: onnx.ModelProto,
    layers: Sequence[QuantizedLayer],
    weight_bits: int,
    batches: Sequence[Batch],
    rounding: Rounding = "compensated",
    progress: Callable[[int, int], None] | None = None,
    weights: Mapping[str, Sequence[NDArray[np.float32]]] | None = None,
) -> tuple[QuantizedLayer, ...]:
    """Repair the weights and biases of a quantized model in place.

    MatMul has no bias; layers with none, and transposed convolutions, are left alone as far as that goes.

    Memory: the tensors alive between two nodes, for all batches and in both networks.

    Args:
        graph: the float model it was made from.
        quantized: from `qdq.quantize`.
        layers: of its summary.
        weight_bits: 8 or 7.
        batches: some tens of calibration inputs.
        rounding: "compensated" rounds weights anew, "absorbing" first moves them to make good what earlier
            layers got wrong, all positions alike, "nearest" keeps them and corrects biases alone.
        progress: called with layers done and layers in all.
        weights: layer → how much its output positions matter, batch by batch, from
            `positions.weigh_positions`; positions of other layers count alike.

    Returns:
        the layers as they are now, for the summary.
    """
    floats, steps = Stepper(graph.model, batches), Stepper(quantized, batches)
    editor = _Editor.open(quantized)
    sources = {node.name: node.input[0] for node in quantized.graph.node}
    nodes = {node.name: node for node in graph.nodes}
    repaired = []
    for index, layer in enumerate(layers):
        node = nodes[layer.node]
        if has_rows(node):
            before = floats.before(node.name), steps.before(node.name)
            matter = weights.get(node.name) if weights and takes_weights(rounding) else None
            _repair_layer(graph, node, editor, before, sources[node.name], weight_bits, rounding, matter)
            layer = replace(layer, weight_sqnr_db=editor.sqnr_db(graph, node))
        repaired.append(layer)
        if progress is not None:
            progress(index + 1, len(layers))
    return tuple(repaired)


def _repair_layer(
    graph: FloatGraph,
    node: onnx.NodeProto,
    editor: _Editor,
    before: tuple[list[Values], list[Values]],
    source: str,
    weight_bits: int,
    rounding: Rounding,
    matter: Sequence[NDArray[np.float32]] | None,
) -> None:
    weight = np.asarray(graph.constant(node.input[1]))
    inputs = (
        (np.asarray(left[node.input[0]], np.float32), np.asarray(right[source], np.float32))
        for left, right in zip(*before, strict=True)
    )
    first, second = halves(node, weight.shape[2:], inputs, POSITIONS, matter)
    moments = first + second
    rows = np.asarray(to_rows(node, weight), np.float64)
    if rounding != "nearest" and editor.owns_weight(node.name):
        wanted = absorb(rows, first, second) if rounding == "absorbing" else rows
        levels, scale = _rounded(wanted, moments, editor.weight_rows(node), weight_bits)
        editor.set_weight(node, np.asarray(from_rows(node, levels, weight.shape)), scale.reshape(-1))
    levels, scale = editor.weight_rows(node)
    mean = np.einsum("grd,gd->gr", rows, moments.mean)
    mean_quantized = np.einsum("grd,gd->gr", levels * scale[..., None], moments.mean_quantized)
    editor.shift_bias(node, (mean - mean_quantized).reshape(-1))


def _rounded(
    rows: Array, moments: Moments, nearest: tuple[Array, Array], weight_bits: int
) -> tuple[Array, Array]:
    """Return levels and scales of less output error than the nearest ones, or these."""
    levels, scale = nearest
    limit = 2 ** (weight_bits - 1) - 1
    ends = np.full(scale.size, limit, np.int64)
    covariance = damped(moments.covariance, DAMPING)
    better = compensated(rows, covariance, Grid(scale.reshape(-1), -ends, ends))
    old = output_error(rows - levels * scale[..., None], covariance)
    new = output_error(rows - better[0] * better[1][..., None], covariance)
    wins = new < old
    return np.where(wins[..., None], better[0], levels), np.where(wins, better[1], scale)


@dataclass
class _Editor:
    """Reads and writes the constants of a quantized model's layers."""

    model: onnx.ModelProto
    nodes: dict[str, onnx.NodeProto]
    producers: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    readers: dict[str, int]

    @classmethod
    def open(cls, model: onnx.ModelProto) -> _Editor:
        readers: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                readers[name] = readers.get(name, 0) + 1
        return cls(
            model=model,
            nodes={node.name: node for node in model.graph.node},
            producers={name: node for node in model.graph.node for name in node.output},
            constants={tensor.name: tensor for tensor in model.graph.initializer},
            readers=readers,
        )

    def owns_weight(self, layer: str) -> bool:
        """Say whether no other layer reads the same weights, so that they may change."""
        return self.readers[self.nodes[layer].input[1]] == 1

    def weight_rows(self, node: onnx.NodeProto) -> tuple[Array, Array]:
        """Return levels [G, R, D] and scales [G, R] of a layer."""
        values, scale, _ = self.producers[self.nodes[node.name].input[1]].input
        levels = np.asarray(to_rows(node, self.value(values)), np.float64)
        return levels, self.value(scale).astype(np.float64).reshape(levels.shape[:2])

    def sqnr_db(self, graph: FloatGraph, node: onnx.NodeProto) -> float | None:
        """Return the signal to noise ratio of a layer's weights."""
        levels, scale = self.weight_rows(node)
        rows = np.asarray(to_rows(node, np.asarray(graph.constant(node.input[1]))), np.float32)
        return sqnr_db(rows, (levels * scale[..., None]).astype(np.float32))

    def set_weight(self, node: onnx.NodeProto, levels: Array, scale: Array) -> None:
        """Store new levels and scales; an INT32 bias follows the new unit of the accumulator."""
        values, name, _ = self.producers[self.nodes[node.name].input[1]].input
        bias = self.integer_bias(node.name)
        if bias:
            unit = self.value(bias[1]) / self.value(name)
            real = self.value(bias[0]) * self.value(bias[1]).astype(np.float64)
            scale = np.maximum(scale, np.abs(real) / (unit * BIAS_LIMIT))
            self.store(bias[1], unit * scale.astype(np.float32))
            self.store(bias[0], np.rint(real / self.value(bias[1])).astype(np.int32))
        self.store(values, levels.astype(np.int8))
        self.store(name, scale.astype(np.float32))

    def shift_bias(self, node: onnx.NodeProto, shift: Array) -> None:
        """Add to a layer's bias; a convolution without one gets it."""
        layer = self.nodes[node.name]
        bias = self.integer_bias(node.name)
        if bias:
            values = np.rint(self.value(bias[0]) + shift / self.value(bias[1]))
            self.store(bias[0], np.clip(values, -2 * BIAS_LIMIT, 2 * BIAS_LIMIT - 1).astype(np.int32))
        elif len(layer.input) > 2 and self.constants.get(layer.input[2]) is not None:
            if attribute(layer, "beta", 1.0) == 1.0:
                old = self.value(layer.input[2])
                self.replace_bias(layer, old + shift.astype(np.float32))
        elif layer.op_type in ("Conv", "Gemm"):
            self.replace_bias(layer, shift.astype(np.float32))

    def replace_bias(self, layer: onnx.NodeProto, value: NDArray[np.float32]) -> None:
        """Give a layer a float bias of its own."""
        tensor = self.model.graph.initializer.add()
        tensor.CopyFrom(
            numpy_helper.from_array(np.asarray(value, np.float32), f"{layer.name}/corrected_bias")
        )
        del layer.input[2:]
        layer.input.append(tensor.name)
        self.constants[tensor.name] = tensor

    def integer_bias(self, layer: str) -> tuple[str, str] | None:
        """Return the names of an INT32 bias's values and scale, None when the layer has none."""
        inputs = self.nodes[layer].input
        producer = self.producers.get(inputs[2]) if len(inputs) > 2 else None
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        return producer.input[0], producer.input[1]

    def value(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def store(self, name: str, value: NDArray[np.generic]) -> None:
        self.constants[name].CopyFrom(numpy_helper.from_array(np.asarray(value), name))
