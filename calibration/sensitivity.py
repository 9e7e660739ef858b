"""Which layers lose most by quantization, and how few of them have to stay in float.

Sensitivity is measured by brute force: one layer after the other is the only one quantized. The cheap
estimate takes one pass backward: what rounding and clipping the layer's input costs (`importance`) and what
rounding its weights costs (`fisher`), both in nats. Where an operator has no gradient rule it compares the
layer's output in the float and in the quantized model instead. How well it ranks the layers is reported with
it, because that depends on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.clipping import costs
from calibration.fisher import responses
from calibration.graph import FloatGraph, output_axis
from calibration.load import load
from calibration.observations import Observations
from calibration.placement import Placement, place
from calibration.qdq import quantize
from calibration.ranges import Batch, Method, choose_one
from calibration.simulate import output_distance, simulate
from calibration.weights import quantize_weight
from targets.errors import GateFailed

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer costs.

    Args:
        node: name of the layer.
        measured: distance of the model's outputs when it alone is quantized, see `output_distance`.
        estimated: the same by gradients, in nats; without gradient rules noise power relative to signal power
            at its output, in the model quantized as a whole.
    """

    node: str
    measured: float
    estimated: float


def measure_sensitivities(
    model: Path,
    observations: Observations,
    convention: QuantizationConvention,
    batches: Sequence[Batch],
    method: Method = "mse",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Measure and estimate what every layer loses by quantization, most sensitive first.

    Args:
        model: float ONNX file.
        observations: from `ranges.collect` on it.
        convention: of the target's capability.
        batches: some tens of inputs, unlabelled, not those the ranges are from.
        method: how ranges are chosen.
        progress: called with layers done and layers in all.
    """
    graph = load(model)
    reference = simulate(graph.model, batches)
    estimates = estimate_sensitivities(model, observations, convention, batches, method)
    every = [node.name for node in graph.nodes if node.op_type != "Pad"]
    found = []
    with TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        for name, estimated in estimates.items():
            others = [other for other in every if other != name]
            quantize(model, observations, convention, out, method, others)
            distance = output_distance(reference, simulate(onnx.load(out), batches))
            found.append(Sensitivity(name, distance, estimated))
            if progress is not None:
                progress(len(found), len(estimates))
    return tuple(sorted(found, key=lambda item: -item.measured))


def estimate_sensitivities(
    model: Path,
    observations: Observations,
    convention: QuantizationConvention,
    batches: Sequence[Batch],
    method: Method = "mse",
) -> dict[str, float]:
    """Estimate what every layer loses by quantization, in graph order, without quantizing them one by one.

    Args:
        model, convention, batches, method: as for `measure_sensitivities`.
        observations: weighed (`ranges.weigh_values`) for estimates in nats, see `Sensitivity`.
    """
    graph = load(model)
    placement = place(graph, convention.quantize_residual_inputs)
    if not observations.importance:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "quantized.onnx"
            quantize(model, observations, convention, out, method)
            outputs = {layer.node.output[0]: layer.node.name for layer in placement.layers}
            noise = _noise(graph.model, onnx.load(out), list(outputs), batches)
        return {name: noise[output] for output, name in outputs.items()}
    sources = {
        name: _activation_cost(observations, group, convention, method)
        for members, group in placement.groups.items()
        for name in members
    }
    weights = responses(graph, _weight_errors(graph, placement, convention.weight_bits), batches)
    return {
        layer.node.name: sources[layer.source] + 0.5 * float(weights[layer.node.name].sum())
        for layer in placement.layers
    }


def _activation_cost(
    observations: Observations, sources: Sequence[str], convention: QuantizationConvention, method: Method
) -> float:
    """Return what quantizing a group of tensors costs, in nats."""
    importance = observations.importance_of(sources)
    if importance is None or not importance.weights.any():
        return 0.0
    chosen = choose_one(observations.of(sources), method, convention, importance=importance)
    symmetric = convention.activations == "int8-symmetric"
    ends = (-128, 127) if symmetric else (0, 255)
    low, high = (np.array([(end - chosen.zero_point) * chosen.scale]) for end in ends)
    return float(costs(importance, -high if symmetric else low, high, symmetric)[0])


def _weight_errors(graph: FloatGraph, placement: Placement, bits: int) -> dict[str, NDArray[np.float32]]:
    """Return what rounding to the nearest level adds to the weights of each layer."""
    errors = {}
    for layer in placement.layers:
        weight = np.asarray(graph.constant(layer.node.input[1]), np.float32)
        axis = output_axis(layer.node)
        rounded = quantize_weight(weight, axis, bits)
        shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
        errors[layer.node.name] = rounded.values * rounded.scale.reshape(shape) - weight
    return errors


def rank_agreement(first: Iterable[float], second: Iterable[float]) -> float:
    """Return Kendall's τ-b of two rankings of the same things: 1 the same, 0 unrelated, −1 reversed."""
    a, b = np.asarray(list(first)), np.asarray(list(second))
    upper = np.triu_indices(len(a), 1)
    left, right = np.sign(a[:, None] - a)[upper], np.sign(b[:, None] - b)[upper]
    pairs = float(np.sqrt(np.sum(left**2) * np.sum(right**2)))
    return float(np.sum(left * right)) / pairs if pairs else 0.0


@dataclass(frozen=True)
class Lifted:
    """The fewest layers, in order of sensitivity, whose lifting to float meets a limit.

    Args:
        layers: names of the nodes that stay in float.
        loss: of the model made with them.
        losses: number of layers lifted → loss, for all numbers tried.
    """

    layers: tuple[str, ...]
    loss: float
    losses: dict[int, float]


def lift(ranked: Sequence[str], loss: Callable[[tuple[str, ...]], float], limit: float) -> Lifted:
    """Find how many of the most sensitive layers have to stay in float, by bisection.

    Args:
        ranked: names of layers, most sensitive first.
        loss: names of the layers left in float → what the quantized model loses, in any unit.
        limit: largest loss allowed.

    Raises:
        GateFailed: the limit does not hold even with all but the last layer in float; says the nearest loss.
    """
    losses: dict[int, float] = {}

    def holds(count: int) -> bool:
        if count not in losses:
            losses[count] = loss(tuple(ranked[:count]))
        return losses[count] <= limit

    low, high = -1, len(ranked) - 1
    if not holds(high):
        best = min(losses.values())
        raise GateFailed(
            f"the loss is {best:g} even with {high} of {len(ranked)} layers in float, more than {limit:g}",
            mend=f"allow {best:g}, or leave the model in float",
        )
    if holds(0):
        high = 0
    else:
        low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return Lifted(tuple(ranked[:high]), losses[high], dict(sorted(losses.items())))


def _noise(
    floats: onnx.ModelProto, quantized: onnx.ModelProto, tensors: Sequence[str], batches: Sequence[Batch]
) -> dict[str, float]:
    """Return noise power over signal power of tensors that both models compute."""
    models = [_with_outputs(model, tensors) for model in (floats, quantized)]
    signal, noise = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    for batch in batches:
        expected, got = (simulate(model, [batch]) for model in models)
        for name in tensors:
            value, other = (np.asarray(item[name], np.float64) for item in (expected, got))
            signal[name] += float(np.sum(value**2))
            noise[name] += float(np.sum((other - value) ** 2))
    return {name: noise[name] / max(signal[name], 1e-30) for name in tensors}


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in known
    )
    return copy
