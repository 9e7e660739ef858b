"""How much noise each width puts into each output channel of each layer, measured after repair.

The noise of channel c at b bits is the mean square, over output positions, of what rounding its weights
changes in its output: δᵀ C δ for weight errors δ and the covariance C of the inputs. The mean of the change
is left out: bias correction removes it. The weights are rounded as they will be (`compensate`), so that the
allocation counts on what is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.compensate import compensated, damped, output_error
from calibration.graph import FloatGraph
from calibration.grid import WIDTHS, fit_grid
from calibration.moments import Moments, pair_moments
from calibration.ranges import Batch
from calibration.rows import from_rows, has_rows, to_rows
from calibration.stepper import Stepper

Array = NDArray[np.float64]

# The width whose rounding errors sensitivities are measured with: large enough to count, of the usual shape.
REFERENCE = 3


@dataclass(frozen=True)
class LayerNoise:
    """What rounding does to a layer.

    Args:
        weights: number of weights in one output channel.
        noise: noise power of every channel at every width of `WIDTHS`, [C, 6].
        power: variance of every channel's output, in the float model, [C].
        change: what rounding to `REFERENCE` bits adds to the weights, float32 in their shape.
    """

    weights: int
    noise: Array
    power: Array
    change: NDArray[np.float32]


def damping(moments: Moments) -> float:
    """Return the share of the mean input power added to the diagonal: more when there are few samples."""
    return max(0.01, float(moments.square.shape[-1]) / moments.count)


def rounded(rows: Array, moments: Moments, bits: NDArray[np.int64], limit: int = 127) -> tuple[Array, Array]:
    """Fit grids and round the weights of a layer.

    Args:
        rows: weights [G, R, D].
        moments: of its inputs.
        bits: width of each channel, [G · R].
        limit: largest magnitude of an INT8 weight: 127, or 63 on CPUs without VNNI.

    Returns:
        levels [G, R, D] and scales [G, R].
    """
    covariance = damped(moments.covariance, damping(moments))
    groups, count, depth = rows.shape
    importance = np.repeat(np.einsum("gdd->gd", covariance), count, axis=0)
    grid = fit_grid(rows.reshape(groups * count, depth), importance, bits, limit)
    return compensated(rows, covariance, grid)


def layer_noise(
    rows: Array, moments: Moments, limit: int = 127, widths: Sequence[int] = WIDTHS
) -> tuple[Array, list[Array]]:
    """Return the noise power of every channel of a layer at every width, and the weight errors behind it.

    Args:
        rows: weights [G, R, D].
        moments: of its inputs.
        limit: largest magnitude of an INT8 weight.
        widths: bits.

    Returns:
        noise [C, len(widths)]; rounded minus float weights at each width, [G, R, D].
    """
    errors = []
    for width in widths:
        bits = np.full(rows.shape[0] * rows.shape[1], width)
        levels, scale = rounded(rows, moments, bits, limit)
        errors.append(levels * scale[..., None] - rows)
    noise = [output_error(error, moments.covariance).reshape(-1) for error in errors]
    return np.stack(noise, axis=1), errors


def measure_noise(
    graph: FloatGraph,
    layers: Sequence[str],
    batches: Sequence[Batch],
    limit: int = 127,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, LayerNoise]:
    """Measure the noise of every layer at every width, in one pass of the inputs: {node name: noise}.

    Args:
        graph: prepared float model.
        layers: node names, in graph order; those without rows (ConvTranspose) are left out.
        batches: calibration inputs.
        limit: largest magnitude of an INT8 weight.
        progress: called with layers done and layers in all.
    """
    nodes = {node.name: node for node in graph.nodes}
    stepper = Stepper(graph.model, batches)
    measured = {}
    for index, name in enumerate(layers):
        node = nodes[name]
        if has_rows(node):
            values = stepper.before(name)
            measured[name] = _measure(graph, node, (item[node.input[0]] for item in values), limit)
        if progress is not None:
            progress(index + 1, len(layers))
    return measured


def measure_power(graph: FloatGraph, layers: Sequence[str], batches: Sequence[Batch]) -> dict[str, Array]:
    """Return the variance of every output channel of layers, in one pass of the inputs: {node name: [C]}.

    Args:
        graph: prepared float model.
        layers: node names, in graph order; those without rows (ConvTranspose) are left out.
        batches: calibration inputs.
    """
    nodes = {node.name: node for node in graph.nodes}
    stepper = Stepper(graph.model, batches)
    found = {}
    for node in (nodes[name] for name in layers):
        if has_rows(node):
            inputs = (values[node.input[0]] for values in stepper.before(node.name))
            rows, moments = _read(graph, node, inputs)
            found[node.name] = output_error(rows, moments.covariance).reshape(-1)
    return found


def _read(
    graph: FloatGraph, node: onnx.NodeProto, inputs: Iterable[NDArray[np.generic]]
) -> tuple[Array, Moments]:
    """Return a layer's weights as rows, and the moments of what it reads."""
    weight = np.asarray(graph.constant(node.input[1]))
    seen = (np.asarray(item, np.float32) for item in inputs)
    moments = pair_moments(node, weight.shape[2:], ((item, item) for item in seen))
    return np.asarray(to_rows(node, weight), np.float64), moments


def _measure(
    graph: FloatGraph, node: onnx.NodeProto, inputs: Iterable[NDArray[np.generic]], limit: int
) -> LayerNoise:
    rows, moments = _read(graph, node, inputs)
    power = output_error(rows, moments.covariance).reshape(-1)
    noise, errors = layer_noise(rows, moments, limit)
    shape = tuple(graph.constants[node.input[1]].dims)
    change = from_rows(node, errors[WIDTHS.index(REFERENCE)].astype(np.float32), shape)
    return LayerNoise(rows.shape[2], noise, power, np.asarray(change, np.float32))
