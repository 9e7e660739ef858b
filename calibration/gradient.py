"""The backward pass of a network, as an ONNX graph: gradients at every layer without a training framework.

Only what stands between layers of a convolutional network has a rule here; `gradient_model` names the
operator it has none for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from calibration.external import infer_shapes
from calibration.gradient_rules import RULES
from calibration.graph import FloatGraph
from calibration.tape import Tape
from targets.errors import ModelError

# The first opset whose ScatterElements adds, and below 18, where reductions changed.
OPSET = 17
SEED = "gradient_seed"
SIGNS = "gradient_signs"


@dataclass(frozen=True)
class GradientModel:
    """A network followed by its own backward pass.

    Args:
        model: its inputs are the network's and `SEED`, the gradient at `logits`, of the same shape.
        logits: the tensor the gradient starts from: what the last Softmax reads, else the first output.
        gradients: layer's node name → the tensor with the gradient at the layer's output.
    """

    model: onnx.ModelProto
    logits: str
    gradients: dict[str, str]


def gradient_model(
    graph: FloatGraph, shapes: dict[str, tuple[int, ...]], layers: Iterable[str]
) -> GradientModel:
    """Build the backward pass.

    Args:
        graph: prepared float model.
        shapes: of the inputs that will be fed, batch axis included.
        layers: names of the nodes at whose output the gradient is wanted.

    Raises:
        ModelError: an operator between a layer and the output has no rule here.
    """
    tape, logits = _backward(graph, shapes)
    wanted = set(layers)
    outputs = {
        node.name: tape.gradients[node.output[0]]
        for node in graph.nodes
        if node.name in wanted and node.output[0] in tape.gradients
    }
    body = tape.model.graph
    del body.output[:]
    body.output.extend(
        helper.make_empty_tensor_value_info(name) for name in (logits, *dict.fromkeys(outputs.values()))
    )
    body.input.append(helper.make_tensor_value_info(SEED, TensorProto.FLOAT, tape.shapes[logits]))
    body.node.extend(tape.nodes)
    body.initializer.extend(tape.constants)
    return GradientModel(tape.model, logits, outputs)


def probe_model(
    graph: FloatGraph, shapes: dict[str, tuple[int, ...]], tensors: Iterable[str]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Build the backward pass of a random probe of what the network says, at any of its tensors.

    The model takes random signs v, input `SIGNS`, of the logits' shape. From logits [N, K] with shares p the
    gradient starts as s = √p ∘ v − p (√p · v), for which E[s sᵀ] = diag(p) − p pᵀ, the second derivative of
    the Kullback-Leibler divergence; from any other output as v.

    Args:
        graph: prepared float model.
        shapes: of the inputs that will be fed, batch axis included.
        tensors: whose values and gradients are wanted.

    Returns:
        the model; tensor → the output with its gradient, for those that have one.

    Raises:
        ModelError: an operator between a tensor and the output has no rule here.
    """
    tape, logits = _backward(graph, shapes)
    gradients = {name: tape.gradients[name] for name in tensors if name in tape.gradients}
    body = tape.model.graph
    fed = {value.name for value in body.input}
    shown = dict.fromkeys([*(name for name in gradients if name not in fed), *gradients.values()])
    del body.output[:]
    body.output.extend(helper.make_empty_tensor_value_info(name) for name in shown)
    body.input.append(helper.make_tensor_value_info(SIGNS, TensorProto.FLOAT, tape.shapes[logits]))
    body.node.extend([*_probe(tape, logits), *tape.nodes])
    body.initializer.extend(tape.constants)
    return tape.model, gradients


def _probe(tape: Tape, logits: str) -> list[onnx.NodeProto]:
    """Return the nodes that make `SEED` from the logits and `SIGNS`."""
    shape = tape.shapes[logits]
    if len(shape) != 2 or shape[1] < 2:
        return [helper.make_node("Identity", [SIGNS], [SEED])]
    axis = tape.constant([1], np.int64)
    steps = [
        ("Softmax", [logits], "shares"),
        ("Sqrt", ["shares"], "roots"),
        ("Mul", ["roots", SIGNS], "signed"),
        ("ReduceSum", ["signed", axis], "sum"),
        ("Mul", ["shares", "sum"], "mean"),
        ("Sub", ["signed", "mean"], ""),
    ]
    names = {"shares", "roots", "signed", "sum", "mean"}
    return [
        helper.make_node(
            kind,
            [f"{SEED}/{name}" if name in names else name for name in inputs],
            [f"{SEED}/{output}" if output else SEED],
        )
        for kind, inputs, output in steps
    ]


def _backward(graph: FloatGraph, shapes: dict[str, tuple[int, ...]]) -> tuple[Tape, str]:
    """Write the backward pass from `SEED` on; return it and the tensor it starts from."""
    logits = _logits(graph)
    tape = Tape(_with_shapes(graph, shapes))
    tape.gradients[logits] = SEED
    for node in reversed(graph.nodes):
        _visit(tape, node)
    return tape, logits


def _with_shapes(graph: FloatGraph, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Copy the model with every shape fixed."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for value in model.graph.input:
        if value.name in shapes:
            tensor = helper.make_tensor_value_info(
                value.name, value.type.tensor_type.elem_type, shapes[value.name]
            )
            value.CopyFrom(tensor)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = max(item.version, OPSET)
    return infer_shapes(model)


def _logits(graph: FloatGraph) -> str:
    name = graph.model.graph.output[0].name
    node = graph.producers.get(name)
    return str(node.input[0]) if node is not None and node.op_type in ("Softmax", "LogSoftmax") else name


def _visit(tape: Tape, node: onnx.NodeProto) -> None:
    if node.output[0] not in tape.gradients:
        return
    rule = RULES.get(node.op_type)
    if rule is None:
        raise ModelError(
            f"there is no gradient rule for {node.op_type}",
            where=node.name,
            mend="give sensitivities of your own, or use the output error",
        )
    rule(tape, node, tape.gradients[node.output[0]])
