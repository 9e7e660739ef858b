"""The backward pass of a network, as an ONNX graph: gradients at every layer without a training framework.

Only what stands between layers of a convolutional network has a rule here; `gradient_model` names the
operator it has none for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from calibration.gradient_rules import RULES
from calibration.graph import FloatGraph
from calibration.tape import Tape
from targets.errors import ModelError

# The first opset whose ScatterElements adds, and below 18, where reductions changed.
OPSET = 17
SEED = "gradient_seed"


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
    model = _with_shapes(graph, shapes)
    logits = _logits(graph)
    tape = Tape(model)
    tape.gradients[logits] = SEED
    wanted = set(layers)
    for node in reversed(graph.nodes):
        _visit(tape, node)
    outputs = {
        node.name: tape.gradients[node.output[0]]
        for node in graph.nodes
        if node.name in wanted and node.output[0] in tape.gradients
    }
    body = model.graph
    del body.output[:]
    body.output.extend(
        helper.make_empty_tensor_value_info(name) for name in (logits, *dict.fromkeys(outputs.values()))
    )
    body.input.append(helper.make_tensor_value_info(SEED, TensorProto.FLOAT, tape.shapes[logits]))
    body.node.extend(tape.nodes)
    body.initializer.extend(tape.constants)
    return GradientModel(model, logits, outputs)


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
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


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
