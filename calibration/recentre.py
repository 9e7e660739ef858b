"""Move activations to the middle of the quantizer's range without changing what the network computes.

It does for a channel what a zero-point a channel would do, which no runtime offers for activations (bias
absorption, Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
section 4.1.3, generalised to whole graphs and to both ends of the range).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.channels import layer_channels
from calibration.graph import FloatGraph
from calibration.shift import Shifts

Array = NDArray[np.float64]


def recentre(graph: FloatGraph, lows: Mapping[str, Array], highs: Mapping[str, Array]) -> dict[str, Array]:
    """Take the middle of its range away from every channel of tensors without activation function, in place.

    Of a residual sum the branch that nothing else reads takes what centres the sum.

    Args:
        graph: prepared float model; biases change, layers without one get it.
        lows, highs: tensor → smallest and largest value of each channel, float64 [C].

    Returns:
        tensor → what was subtracted from its channels, for each tensor that changed.
    """
    shifts = Shifts(graph)
    branches = _branches(graph, shifts)
    for node in graph.nodes:
        name = node.output[0]
        if layer_channels(graph, node) is not None and shifts.may_move(name):
            total = branches.get(name)
            wanted = name if total is None else total.output[0]
            if wanted in lows:
                others = [item for item in ([] if total is None else total.input) if item != name]
                middle = (lows[wanted] + highs[wanted]) / 2.0
                shifts.subtract(name, middle - sum((shifts.amount(item) for item in others), np.zeros(1)))
        else:
            shifts.follow(node)
    return shifts.apply()


def offset_activations(graph: FloatGraph, highs: Mapping[str, float]) -> dict[str, Array]:
    """Move tensors behind ReLU and Clip from [0, 2h] to [−h, h], in place, for zero-points that have to be 0.

    Half of a symmetric range stays empty after ReLU, which costs a bit. The layer computes x − h instead, the
    activation function Clip(0, b) becomes Clip(−h, b − h).

    Args:
        graph: prepared float model; biases and activation functions change.
        highs: tensor → 2h, the upper end of its range, for tensors that may be moved.

    Returns:
        tensor → what was subtracted from its channels, for each tensor that changed.
    """
    shifts = Shifts(graph)
    for node in graph.nodes:
        name = node.output[0]
        if name in highs and shifts.may_move(name) and _is_fused(graph, node):
            half = highs[name] / 2.0
            shifts.subtract(name, np.full_like(shifts.amount(name), half))
            _lower_bounds(graph, node, half)
        else:
            shifts.follow(node)
    return shifts.apply()


def _branches(graph: FloatGraph, shifts: Shifts) -> dict[str, onnx.NodeProto]:
    """Return output of a layer → the Add that alone reads it, one branch an Add."""
    found: dict[str, onnx.NodeProto] = {}
    for node in graph.nodes:
        if node.op_type != "Add" or not shifts.may_move(node.output[0]):
            continue
        for name in reversed(node.input):
            layer = graph.producers.get(name)
            own = layer is not None and layer_channels(graph, layer) is not None
            if own and shifts.may_move(name) and len(graph.consumers[name]) == 1:
                found[name] = node
                break
    return found


def _is_fused(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    """Say whether this is ReLU, or a Clip from 0, of a layer that feeds nothing else."""
    layer = graph.producers.get(node.input[0])
    if layer is None or layer_channels(graph, layer) is None or node.input[0] in graph.outputs:
        return False
    if len(graph.consumers[node.input[0]]) != 1 or node.op_type not in ("Relu", "Clip"):
        return False
    bounds = [graph.constant(name) for name in node.input[1:]]
    known = all(value is not None and value.size == 1 for value in bounds)
    return node.op_type == "Relu" or bool(known and bounds and not np.any(bounds[0]))


def _lower_bounds(graph: FloatGraph, node: onnx.NodeProto, half: float) -> None:
    upper = [value for name in node.input[2:] if (value := graph.constant(name)) is not None]
    bounds = [0.0, *(float(np.reshape(value, -1)[0]) for value in upper)]
    node.op_type = "Clip"
    del node.input[1:]
    for index, bound in enumerate(bounds):
        name = graph.fresh(f"{node.output[0]}.bound{index}")
        tensor = graph.model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.array(bound - half, np.float32), name))
        graph.constants[name] = tensor
        node.input.append(name)
