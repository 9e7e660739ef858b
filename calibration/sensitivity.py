"""Which layers lose most by quantization, and how few of them have to stay in float.

Sensitivity is measured by brute force: one layer after the other is the only one quantized. The cheap
estimate compares each layer's output in the float and in the quantized model, in two runs altogether; how
well it ranks the layers is reported with it, because that depends on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx

from calibration.load import load
from calibration.observations import Observations
from calibration.placement import place
from calibration.qdq import quantize
from calibration.ranges import Batch, Method
from calibration.simulate import output_distance, simulate
from targets.errors import GateFailed

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer costs.

    Args:
        node: name of the layer.
        measured: distance of the model's outputs when it alone is quantized, see `output_distance`.
        estimated: noise power relative to signal power at its output, in the model quantized as a whole.
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
    nodes = [layer.node for layer in place(graph, convention.quantize_residual_inputs).layers]
    every = [node.name for node in graph.nodes if node.op_type != "Pad"]
    found = []
    with TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        quantize(model, observations, convention, out, method)
        noise = _noise(graph.model, onnx.load(out), [node.output[0] for node in nodes], batches)
        for index, node in enumerate(nodes):
            others = [name for name in every if name != node.name]
            quantize(model, observations, convention, out, method, others)
            distance = output_distance(reference, simulate(onnx.load(out), batches))
            found.append(Sensitivity(node.name, distance, noise[node.output[0]]))
            if progress is not None:
                progress(index + 1, len(nodes))
    return tuple(sorted(found, key=lambda item: -item.measured))


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
