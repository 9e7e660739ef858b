"""Lower a plan of bits into INT8: every channel on a grid of its own width, the graph as it was.

Runtimes see the same QDQ model with the same kernels as in plain INT8; `packing` then stores each weight in
the planned bits. Layers are rounded one after the other on what the layers before them really compute, so
that each makes good what it can of the errors before it (`drift`), of its own rounding (`compensate`), and
of the mean error that is left (its bias).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.drift import absorb
from calibration.graph import FloatGraph
from calibration.grid import WIDTHS
from calibration.moments import Moments, halves
from calibration.noise import rounded
from calibration.plan import BitsPlan, LayerBits
from calibration.ranges import Batch
from calibration.rows import from_rows, to_rows
from calibration.stepper import Stepper, Values
from calibration.weights import least_weight_scale
from targets.errors import ConfigError, DataError

Array = NDArray[np.float64]

# Positions of an image that moments are taken from: what is fitted to fewer holds less on other images.
POSITIONS = 200


def lower_container(
    graph: FloatGraph,
    quantized: onnx.ModelProto,
    plan: BitsPlan,
    batches: Sequence[Batch],
    weight_bits: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Put the weights of a quantized model on the grids of a plan, in place, and repair what that changes.

    Memory: the tensors alive between two nodes, for all inputs, in both models.

    Args:
        graph: the float model, prepared.
        quantized: made from it by `qdq.quantize`.
        plan: made for it; layers it does not name stay as they are.
        batches: calibration inputs, at least two batches.
        weight_bits: of the convention: 8, or 7 on CPUs without VNNI.
        progress: called with layers done and layers in all.

    Raises:
        ConfigError: the plan is for another model, or wants a width that INT8 does not hold.
        DataError: fewer than two batches.
    """
    check_plan(graph, plan)
    if len(batches) < 2:
        raise DataError(
            "repairs need two batches of calibration inputs", mend="give more inputs or smaller batches"
        )
    lowering = _Lowering(graph, quantized, batches, 2 ** (weight_bits - 1) - 1)
    for index, layer in enumerate(plan.layers):
        lowering.layer(layer)
        if progress is not None:
            progress(index + 1, len(plan.layers))


def check_plan(graph: FloatGraph, plan: BitsPlan, widths: Sequence[int] = WIDTHS) -> None:
    """Refuse a plan that does not fit a model.

    Raises:
        ConfigError: another model, an unknown layer, another number of channels, or a width not in `widths`.
    """
    if plan.model_sha256 != graph.sha256:
        raise ConfigError("the plan of bits is for another model", mend="plan again with this model")
    nodes = {node.name: node for node in graph.nodes}
    for layer in plan.layers:
        if layer.node not in nodes:
            raise ConfigError(f"the model has no layer {layer.node!r}", mend="plan again with this model")
        size = int(np.prod(graph.constants[nodes[layer.node].input[1]].dims))
        if size != layer.weights * len(layer.bits):
            raise ConfigError(
                f"the plan gives layer {layer.node!r} {len(layer.bits)} channels of {layer.weights} weights, "
                f"it has {size} weights",
                mend="plan again with this model",
            )
        unfit = sorted(set(layer.bits) - set(widths))
        if unfit:
            raise ConfigError(
                f"layer {layer.node!r} has channels of {unfit[0]} bits",
                mend=f"this form takes {', '.join(map(str, widths))}; split the layer or keep it in float",
            )


class _Lowering:
    """Two models that are run in step, and the constants of the quantized one."""

    def __init__(
        self, graph: FloatGraph, quantized: onnx.ModelProto, batches: Sequence[Batch], limit: int
    ) -> None:
        self._graph, self._limit = graph, limit
        self._floats, self._steps = Stepper(graph.model, batches), Stepper(quantized, batches)
        self._float_nodes = {node.name: node for node in graph.nodes}
        self._nodes = {node.name: node for node in quantized.graph.node}
        self._producers = {name: node for node in quantized.graph.node for name in node.output}
        self._model = quantized
        self._constants = {tensor.name: tensor for tensor in quantized.graph.initializer}

    def layer(self, planned: LayerBits) -> None:
        """Round one layer; the layers before it are final."""
        node, layer = self._float_nodes[planned.node], self._nodes[planned.node]
        weight = np.asarray(self._graph.constant(node.input[1]))
        rows = np.asarray(to_rows(node, weight), np.float64)
        first, second = self._moments(node, layer, weight)
        both = first + second
        bits = np.asarray(planned.bits, np.int64)
        levels, scale = rounded(absorb(rows, first, second), both, bits, self._limit)
        levels, scale = self._with_least_scale(node, layer, levels, scale)
        mean = np.einsum("grd,gd->gr", rows, both.mean)
        mean -= np.einsum("grd,gd->gr", levels * scale[..., None], both.mean_quantized)
        # The bias first: the scale of the layer's input is read off its old unit and that of the old weights.
        self._set_bias(node, layer, scale.reshape(-1), mean.reshape(-1))
        values, unit, *_ = self._producers[layer.input[1]].input
        self._store(values, np.asarray(from_rows(node, levels.astype(np.int8), weight.shape)))
        self._store(unit, scale.reshape(-1).astype(np.float32))

    def _moments(
        self, node: onnx.NodeProto, layer: onnx.NodeProto, weight: NDArray[np.generic]
    ) -> tuple[Moments, Moments]:
        before: tuple[list[Values], list[Values]] = (
            self._floats.before(node.name),
            self._steps.before(node.name),
        )
        inputs = (
            (np.asarray(left[node.input[0]], np.float32), np.asarray(right[layer.input[0]], np.float32))
            for left, right in zip(*before, strict=True)
        )
        return halves(node, weight.shape[2:] if node.op_type == "Conv" else (), inputs, POSITIONS)

    def _with_least_scale(
        self, node: onnx.NodeProto, layer: onnx.NodeProto, levels: Array, scale: Array
    ) -> tuple[Array, Array]:
        """Raise scales at which the INT32 bias would overflow; such channels hardly have weights."""
        if not self._integer_bias(layer):
            return levels, scale
        bias = np.asarray(self._graph.constant(node.input[2]), np.float32)
        least = 2.0 * least_weight_scale(bias, self._source_scale(layer)).reshape(scale.shape)
        raised = np.maximum(scale, least)
        return np.where(
            (raised > scale)[..., None], np.rint(levels * (scale / raised)[..., None]), levels
        ), raised

    def _set_bias(self, node: onnx.NodeProto, layer: onnx.NodeProto, scale: Array, shift: Array) -> None:
        """Write the float bias plus the mean error, as INT32 where the layer has that."""
        old = self._graph.constant(self._graph.bias(node))
        bias = shift + (0.0 if old is None else np.asarray(old, np.float64))
        if self._integer_bias(layer):
            values, unit, *_ = self._producers[layer.input[2]].input
            steps = (np.float32(self._source_scale(layer)) * scale.astype(np.float32)).astype(np.float32)
            self._store(unit, steps)
            self._store(values, np.rint(bias / steps).astype(np.int32))
        elif layer.op_type != "MatMul":
            name = f"{layer.name}/repaired_bias"
            self._model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
            del layer.input[2:]
            layer.input.append(name)

    def _integer_bias(self, layer: onnx.NodeProto) -> bool:
        return len(layer.input) > 2 and layer.input[2] in self._producers

    def _source_scale(self, layer: onnx.NodeProto) -> float:
        """Return the unit of the INT32 bias over that of the weights: the scale of the layer's input."""
        bias, weight = (self._producers[layer.input[index]].input[1] for index in (2, 1))
        ratio = self._value(bias).astype(np.float64) / self._value(weight).astype(np.float64)
        return float(np.float32(np.median(ratio)))

    def _value(self, name: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(self._constants[name])

    def _store(self, name: str, value: NDArray[np.generic]) -> None:
        self._constants[name].CopyFrom(numpy_helper.from_array(value, name))
