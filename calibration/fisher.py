"""How much rounding noise in each output channel disturbs what the network says, without labels.

For a network that gives probabilities p, a change e of channel c's output moves them by

    KL(p ‖ p') ≈ ½ E_x E_{y ~ p(x)} ( Σ_positions e · ∂ log p_y / ∂ z_c )²

(Fisher information; labels are drawn from the network's own answers, as in Martens & Grosse, "Optimizing
neural networks with Kronecker-factored approximate curvature", 2015). Noise is alike at neighbouring
positions, and pooling adds it up there, so it may not be taken as independent: e is what rounding really
changes. A network whose output is no vector of logits gets random ±1 in the place of ∂ log p_y: then it is
the squared output error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.gradient import SEED, GradientModel, gradient_model
from calibration.graph import FloatGraph
from calibration.ranges import Batch
from calibration.stepper import session_options

Array = NDArray[np.float64]

# Labels drawn for each input.
DRAWS = 2


def responses(
    graph: FloatGraph,
    changes: Mapping[str, NDArray[np.float32]],
    batches: Sequence[Batch],
    seed: int = 0,
) -> dict[str, Array]:
    """Return what changing the weights of each output channel does, as twice the KL, {node name: [C]}.

    The mean of the change over all positions and inputs of a batch is left out: the bias takes it.

    Args:
        graph: prepared float model.
        changes: layer's node name → what is added to its weights, in their shape.
        batches: inputs, unlabelled.
        seed: of the labels drawn.

    Raises:
        ModelError: an operator has no gradient rule.
    """
    rng = np.random.default_rng(seed)
    runs: dict[tuple[tuple[int, ...], ...], _Run] = {}
    sums = dict.fromkeys(changes, np.zeros(1))
    samples = 0
    for batch in batches:
        shapes = {name: np.shape(value) for name, value in batch.items()}
        run = runs.setdefault(tuple(shapes.values()), _Run(graph, shapes, changes))
        for _ in range(DRAWS):
            sums = {name: sums[name] + power for name, power in run.powers(batch, rng).items()}
        samples += DRAWS * len(next(iter(batch.values())))
    return {name: total / samples for name, total in sums.items()}


class _Run:
    """A backward pass that meets changes of the weights, for inputs of one shape."""

    def __init__(
        self,
        graph: FloatGraph,
        shapes: dict[str, tuple[int, ...]],
        changes: Mapping[str, NDArray[np.float32]],
    ) -> None:
        gradient = gradient_model(graph, shapes, changes)
        self._logits, self._layers = gradient.logits, list(gradient.gradients)
        nodes = {node.name: node for node in graph.nodes}
        self._met = [_meet(gradient, nodes[name], changes[name]) for name in self._layers]
        self._session = ort.InferenceSession(
            gradient.model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
        )
        self._shape = next(tuple(item.shape) for item in self._session.get_inputs() if item.name == SEED)

    def powers(self, batch: Batch, rng: np.random.Generator) -> dict[str, Array]:
        """Return the squared responses at each layer, summed over the inputs, [C]."""
        zero = np.zeros(self._shape, np.float32)
        logits = self._session.run([self._logits], {**batch, SEED: zero})[0]
        met = self._session.run(self._met, {**batch, SEED: _seed(logits, rng)})
        return {
            name: np.sum(value.astype(np.float64) ** 2, axis=tuple(range(value.ndim - 1)))
            for name, value in zip(self._layers, met, strict=True)
        }


def _meet(gradient: GradientModel, layer: onnx.NodeProto, change: NDArray[np.float32]) -> str:
    """Add Σ_positions change · gradient of a layer to the model's outputs, [N, C]; return its name."""
    body = gradient.model.graph
    name = f"{layer.output[0]}/met"
    rank = change.ndim
    positions = list(range(2, rank)) if layer.op_type == "Conv" else []
    everywhere = [0, *positions] if layer.op_type == "Conv" else [0]
    names = {key: f"{name}/{key}" for key in ("weight", "positions", "change", "mean", "noise", "product")}
    node = onnx.NodeProto()
    node.CopyFrom(layer)
    node.name = ""
    del node.input[1:]
    node.input.append(names["weight"])
    node.output[0] = names["change"]
    body.initializer.append(numpy_helper.from_array(change, names["weight"]))
    body.node.extend(
        [
            node,
            _mean(gradient.model, names["change"], everywhere, names["mean"]),
            helper.make_node("Sub", [names["change"], names["mean"]], [names["noise"]]),
            helper.make_node("Mul", [names["noise"], gradient.gradients[layer.name]], [names["product"]]),
        ]
    )
    if positions:
        body.initializer.append(numpy_helper.from_array(np.array(positions), names["positions"]))
        body.node.append(
            helper.make_node("ReduceSum", [names["product"], names["positions"]], [name], keepdims=0)
        )
    else:
        body.node.append(helper.make_node("Identity", [names["product"]], [name]))
    body.output.append(helper.make_empty_tensor_value_info(name))
    return name


def _mean(model: onnx.ModelProto, tensor: str, axes: list[int], output: str) -> onnx.NodeProto:
    """Return a ReduceMean that keeps its axes, which are an attribute before opset 18 and an input since."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < 18:
        return helper.make_node("ReduceMean", [tensor], [output], axes=axes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{output}/axes"))
    return helper.make_node("ReduceMean", [tensor, f"{output}/axes"], [output])


def _seed(logits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return ∂ log p_y at the logits for labels drawn from p, or ±1 where there are no labels."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        return rng.choice(np.array([-1.0, 1.0], np.float32), logits.shape)
    shares = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float64)
    shares /= shares.sum(1, keepdims=True)
    drawn = (shares.cumsum(1) < rng.random((len(shares), 1))).sum(1).clip(max=shares.shape[1] - 1)
    seed = -shares
    seed[np.arange(len(seed)), drawn] += 1.0
    return np.asarray(seed, np.float32)
