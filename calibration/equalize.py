"""Cross-layer equalization: rescale channels so that one scale a tensor suits every channel of it.

One scale has to serve all channels of an activation, so a channel a hundred times weaker than the strongest
keeps one or two of 256 levels. Where ReLU, pooling or addition are all that stands between two layers, a
factor a channel can be moved from the later layer's weights into the earlier one's without changing what the
network computes (Nagel et al., "Data-free quantization through weight equalization and bias correction",
2019, section 4.1). There the factors balance weights; here they balance the activations, because weights have
a scale a channel anyway. Residual streams, whose tensors share their factors, get the best compromise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.biases import give_biases
from calibration.channels import Channels, find_channels, layer_channels
from calibration.external import write
from calibration.graph import FloatGraph, attribute
from calibration.load import load
from calibration.placement import place
from calibration.ranges import Batch, not_finite, tensor_values
from calibration.recentre import recentre

Array = NDArray[np.float64]

# No factor is larger: a channel that hardly ever speaks must not get weights beyond float32's precision.
LARGEST = 64.0
# A weight scale serves all inputs of an output channel: where they are added up, part of the way is best.
STRENGTH = 0.5
# Behind a Clip a channel is raised to this share of the bound at most, so that larger inputs pass unclipped.
HEADROOM = 0.8
# Rounds of the compromise between the tensors of a residual stream; it settles in two or three.
ROUNDS = 4


@dataclass(frozen=True)
class Equalization:
    """What equalization did to a model.

    Args:
        channels: channels whose scale was free to choose.
        largest: largest factor, relative to the strongest channel beside it.
    """

    channels: int
    largest: float


def equalize(
    model: Path, batches: Iterable[Batch], out: Path, progress: Callable[[int], None] | None = None
) -> Equalization:
    """Write a float model whose activations have equal ranges in all channels, as far as possible.

    It computes the same outputs, up to float rounding. One exception: a channel behind a Clip (ReLU6) that
    stayed below the bound on all inputs may now be clipped at 1 / 0.8 of the largest value seen, or above.

    Args:
        model: float ONNX file.
        batches: calibration inputs, as for `ranges.collect`; some tens are enough.
        out: where the float ONNX file goes.
        progress: called with the number of inputs seen.

    Raises:
        ModelError, DataError: as `ranges.collect` does.
    """
    graph = load(model)
    give_biases(graph)
    lows, highs = channel_ranges(graph, model, batches, progress)
    moved = recentre(graph, lows, highs)
    peaks = {
        name: np.maximum(highs[name] - moved.get(name, 0.0), moved.get(name, 0.0) - lows[name])
        for name in lows
    }
    channels = find_channels(graph)
    factors = choose_factors(channels, peaks)
    rescale(graph, channels, factors)
    write(graph.model, out)
    free = sorted(channels.free())
    return Equalization(len(free), float(factors[free].max(initial=1.0)))


def channel_ranges(
    graph: FloatGraph,
    model: Path,
    batches: Iterable[Batch],
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the smallest and the largest value of each channel of each quantized tensor, float64 [C]."""
    known = find_channels(graph).tensors
    names = [name for name in place(graph).tensors if name in known]
    lows: dict[str, Array] = {}
    highs: dict[str, Array] = {}
    seen = 0
    for values in tensor_values(graph, model, names, batches):
        for name, value in values.items():
            flat = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            low, high = flat.min(1).astype(np.float64), flat.max(1).astype(np.float64)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise not_finite(name, "NaN" if np.isnan(low).any() else "infinity")
            lows[name] = np.minimum(lows.get(name, low), low)
            highs[name] = np.maximum(highs.get(name, high), high)
        seen += len(next(iter(values.values())))
        if progress is not None:
            progress(seen)
    return lows, highs


def choose_factors(channels: Channels, peaks: dict[str, Array]) -> Array:
    """Return one positive factor a channel variable; 1 where it is not free.

    For a tensor on its own s = 1 / peak is optimal whatever reads it: every channel then fills the range. Of
    several tensors that share their factors each pulls with its peaks relative to its own largest one, and a
    channel follows the root of the sum of their squares.

    Args:
        channels: of the graph.
        peaks: tensor name → largest magnitude of each channel.
    """
    count = len(channels.parents)
    roots = {name: channels.roots(name) for name in peaks}
    free = np.zeros(count, bool)
    free[list(channels.free())] = True
    factors = np.ones(count)
    for _ in range(ROUNDS):
        power = np.zeros(count)
        for name, ids in roots.items():
            reach = factors[ids] * peaks[name]
            np.add.at(power, ids, (peaks[name] / max(float(reach.max()), 1e-30)) ** 2)
        active = free & (power > 0.0)
        factors[active] = power[active] ** -0.5
    return _bounded(channels, roots, peaks, factors, free)


def _bounded(
    channels: Channels,
    roots: dict[str, NDArray[np.int64]],
    peaks: dict[str, Array],
    factors: Array,
    free: NDArray[np.bool_],
) -> Array:
    """Scale factors so that the strongest channel of each group has 1; respect limits and Clip bounds."""
    highest = np.zeros(len(factors))
    for name, ids in roots.items():
        np.maximum.at(highest, ids, peaks[name])
    factors = factors.copy()
    for group in _groups(roots, len(factors)):
        members = group[free[group]]
        if members.size:
            strongest = members[np.argmax(highest[members])]
            factors[members] = np.clip(factors[members] / factors[strongest], 1.0 / LARGEST, LARGEST)
    factors[~free | (highest <= 0.0)] = 1.0
    mixed = list(channels.mixes())
    factors[mixed] **= STRENGTH
    for variable, bound in channels.bounds().items():
        if free[variable] and highest[variable] > 0.0:
            # Below 1 the bound would let through what it clipped before.
            room = max(1.0, HEADROOM * bound / highest[variable])
            factors[variable] = np.clip(factors[variable], 1.0, room)
    return factors


def rescale(graph: FloatGraph, channels: Channels, factors: Array) -> None:
    """Multiply channels by factors and undo it in the layers that read them, in place.

    Args:
        graph: prepared float model; its weights and biases change.
        channels: of this graph.
        factors: float64, one a channel variable, 1 where it is not free.
    """
    for node in graph.nodes:
        axes = layer_channels(graph, node)
        if axes is None or node.output[0] not in channels.tensors or node.input[0] not in channels.tensors:
            continue
        incoming = factors[channels.roots(node.input[0])]
        outgoing = factors[channels.roots(node.output[0])]
        weight = np.asarray(graph.constant(node.input[1]), np.float64)
        weight = weight * outgoing.reshape(_along(weight.ndim, axes[1]))
        _store(graph, node.input[1], weight / _per_weight(node, weight, incoming, axes[0]))
        if graph.bias(node):
            _store(graph, node.input[2], np.asarray(graph.constant(node.input[2]), np.float64) * outgoing)


def _per_weight(node: onnx.NodeProto, weight: Array, incoming: Array, axis: int) -> Array:
    """Return the factor of the input each weight meets, broadcastable to the weights."""
    groups = int(attribute(node, "group", 1))
    if groups == 1:
        return incoming.reshape(_along(weight.ndim, axis))
    repeated = np.repeat(incoming.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return repeated.reshape(*repeated.shape, *[1] * (weight.ndim - 2))


def _along(rank: int, axis: int) -> list[int]:
    return [-1 if index == axis else 1 for index in range(rank)]


def _store(graph: FloatGraph, name: str, value: Array) -> None:
    graph.constants[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def _groups(roots: dict[str, NDArray[np.int64]], count: int) -> list[NDArray[np.int64]]:
    """Return sets of variables that share tensors, directly or through others."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for ids in roots.values():
        for item in ids.tolist():
            parent[root(item)] = root(int(ids[0]))
    groups: dict[int, list[int]] = {}
    for item in sorted({int(item) for ids in roots.values() for item in ids}):
        groups.setdefault(root(item), []).append(item)
    return [np.array(group) for group in groups.values()]
