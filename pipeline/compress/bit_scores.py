"""What labels say about bits: the scores of a network's channels, as sensitivities of its ONNX layers.

A criterion says what it costs to remove a channel. Removing it is noise of the power of the whole channel, so
that per unit of noise it is cost / power: that is what `calibration` plans with, in the place of its own
unlabelled estimate. Costs are relative to the criterion's value for the whole group, as they are where widths
are allocated.

A patent application (US 2019/0378017 A1, S. Y. Kung) describes reducing the bits of nodes by such a score;
its legal status was not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from calibration.graph import FloatGraph
from calibration.load import load
from calibration.noise import measure_power
from calibration.ranges import Batch
from calibration.rows import has_rows, to_rows
from calibration.scores import save_scores
from pipeline.compress.discriminant import Removal
from pipeline.compress.scores import GroupScores, Scores
from targets.errors import ModelError

Array = NDArray[np.float64]

# Rows of weights are the same layer's where their directions agree: folding a BatchNorm only scales them.
SAME = 1.0 - 1e-4


def write_bit_scores(
    scores: Scores, network: nn.Module, model: Path, batches: Sequence[Batch], out: Path
) -> None:
    """Write the file of sensitivities that `quantize_mixed` takes, schema edgewright.bit-scores/1.

    Args:
        scores: of the network's channels.
        network: that was scored.
        model: ONNX file made from it.
        batches: calibration inputs of the ONNX file.
        out: an .npz file.

    Raises:
        ModelError: the ONNX file holds other weights than the network.
    """
    save_scores(bit_scores(scores, network, model, batches), out)


def bit_scores(scores: Scores, network: nn.Module, model: Path, batches: Sequence[Batch]) -> dict[str, Array]:
    """Return the sensitivity of every output channel of an ONNX model's layers, {node name: [C]}.

    Layers that no group scores (most of all the last one) are taken to cost, all channels together, what the
    mean layer does, each channel in proportion to its power.

    Args:
        scores, network, model, batches: as for `write_bit_scores`.

    Raises:
        ModelError: the ONNX file holds other weights than the network.
    """
    graph = load(model)
    nodes = find_nodes(network, graph)
    power = measure_power(graph, [node.name for node in graph.nodes if node.name in nodes.values()], batches)
    found: dict[str, Array] = {}
    for group in scores.groups:
        costs = removal_costs(group.removal())
        for member in group.members:
            whole = _power(network, group, member, nodes, power)
            found[nodes[member]] = np.divide(costs, whole, out=np.zeros(len(costs)), where=whole > 0.0)
    mean = float(np.mean([np.sum(found[name] * power[name]) for name in found])) if found else 1.0
    rest = {name: np.full(len(value), mean / value.sum()) for name, value in power.items() if value.sum() > 0}
    return {**rest, **found}


def removal_costs(removal: Removal) -> Array:
    """Return what each channel's removal cost when its turn came, as a share of the whole, [C]."""
    costs = np.zeros(len(removal.order))
    costs[list(removal.order)] = np.diff(removal.lost, prepend=0.0)
    return np.asarray(np.maximum(costs, 0.0) / (removal.total if removal.total > 0.0 else 1.0))


def _power(
    network: nn.Module, group: GroupScores, member: str, nodes: Mapping[str, str], power: Mapping[str, Array]
) -> Array:
    """Return the power of the channels a group shares, in the units of one of its layers.

    Layers that are summed write into the same channels; a depthwise one has channels of its own.
    """
    if _is_depthwise(network, member):
        return power[nodes[member]]
    summed = [power[nodes[name]] for name in group.members if not _is_depthwise(network, name)]
    return np.asarray(np.sum(summed, axis=0))


def _is_depthwise(network: nn.Module, name: str) -> bool:
    part = network.get_submodule(name)
    return isinstance(part, nn.Conv2d) and part.groups > 1


def find_nodes(network: nn.Module, graph: FloatGraph) -> dict[str, str]:
    """Return module name → node name for every convolution and linear layer, found by their weights.

    Exporters and simplifiers rename nodes; the directions of the rows of weights stay what they were.

    Raises:
        ModelError: a layer of the network is not in the model.
    """
    free = {node.name: _directions(_rows(graph, node)) for node in graph.nodes if _is_layer(graph, node)}
    found = {}
    for name, part in network.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            rows = _directions(part.weight.detach().cpu().double().flatten(1).numpy())
            fitting = (node for node, other in free.items() if _same(rows, other))
            node = next(fitting, None)
            if node is None:
                raise ModelError(
                    f"no layer of the ONNX model has the weights of {name!r}",
                    mend="give the model that was exported from this network",
                )
            found[name] = node
            del free[node]
    return found


def _is_layer(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    return has_rows(node) and node.input[1] in graph.constants


def _rows(graph: FloatGraph, node: onnx.NodeProto) -> Array:
    rows = to_rows(node, np.asarray(graph.constant(node.input[1])))
    return np.asarray(rows.reshape(-1, rows.shape[-1]), np.float64)


def _directions(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0.0))


def _same(rows: Array, others: Array) -> bool:
    """Say whether rows point the same way, or the opposite: a BatchNorm may change the sign."""
    if rows.shape != others.shape:
        return False
    alive = np.any(rows, axis=1) & np.any(others, axis=1)
    return bool(alive.any()) and bool(np.all(np.abs(np.sum(rows * others, axis=1))[alive] > SAME))
