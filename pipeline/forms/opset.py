"""A model at another ONNX opset.

Upwards ONNX's own converter does it. Downwards that converter lacks most adapters (Relu from 14 to 13 among
them), though few operators changed what they mean: types were added, attributes with a default, and axes
became an input. So every node is fitted to its older schema, and what does not fit is refused by name. A gate
behind it compares both models on real images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from targets.checks import OLDEST_FORM
from targets.errors import ModelError
from targets.onnxfile import opset_of

# Before opset 13 Softmax, Squeeze and others meant something else; no device here needs less.
OLDEST = OLDEST_FORM
MEND = "export the network at that opset, or replace the operator in it"

Constants = Mapping[str, onnx.TensorProto]


def to_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model at another opset, computing the same.

    Args:
        model: without control flow where the opset is lowered.
        opset: wanted.

    Raises:
        ModelError: an operator cannot be written at that opset.
    """
    if opset == opset_of(model):
        return model
    return _raised(model, opset) if opset > opset_of(model) else _lowered(model, opset)


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model cannot be raised to opset {opset}: {str(error).splitlines()[0]}",
            mend=f"export the network at opset {opset}",
        ) from error


def _lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    if opset < OLDEST:
        raise ModelError(f"opset {opset} is older than {OLDEST}, the oldest a model is lowered to", mend=MEND)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in lowered.graph.initializer}
    nodes = [
        _fitted(part, opset_of(model), opset, constants)
        for node in model.graph.node
        for part in _in_older_operators(node, opset, lowered.graph)
    ]
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    _drop_unused(lowered.graph)
    versions = [each for each in model.opset_import if each.domain] + [helper.make_opsetid("", opset)]
    del lowered.opset_import[:]
    lowered.opset_import.extend(versions)
    lowered.ir_version = helper.find_min_ir_version_for(versions)
    _check(lowered, opset)
    return lowered


def _in_older_operators(node: onnx.NodeProto, opset: int, graph: onnx.GraphProto) -> Sequence[onnx.NodeProto]:
    """The node, or nodes that compute the same with operators of the older opset."""
    if node.op_type != "HardSwish" or _schema(node.op_type, opset):
        return [node]
    # x · Clip(x + 3, 0, 6) / 6 (ONNX, HardSwish): the definition's HardSigmoid is not to be had everywhere.
    x, y = node.input[0], node.output[0]
    names = {value: f"{y}/{value}" for value in (0, 3, 6)}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for value, name in names.items()
    )
    return [
        helper.make_node("Add", [x, names[3]], [f"{y}/shifted"], f"{node.name}/Add"),
        helper.make_node("Clip", [f"{y}/shifted", names[0], names[6]], [f"{y}/gate"], f"{node.name}/Clip"),
        helper.make_node("Mul", [x, f"{y}/gate"], [f"{y}/product"], f"{node.name}/Mul"),
        helper.make_node("Div", [f"{y}/product", names[6]], [y], f"{node.name}/Div"),
    ]


def _fitted(node: onnx.NodeProto, now: int, opset: int, constants: Constants) -> onnx.NodeProto:
    """A node as the older opset has it.

    Raises:
        ModelError: it asks for something newer.
    """
    if node.domain not in ("", "ai.onnx"):
        return node
    older = _schema(node.op_type, opset)
    if older is None:
        raise _unwritable(node, opset, "the operator itself")
    fitted = onnx.NodeProto()
    fitted.CopyFrom(node)
    _move_axes(fitted, older, constants)
    surplus = [name for name in fitted.input[older.max_input :] if name]
    if surplus:
        raise _unwritable(node, opset, f"input {', '.join(surplus)}")
    del fitted.input[older.max_input :]
    _drop_attributes(fitted, onnx.defs.get_schema(node.op_type, now), older, opset, constants)
    return fitted


def _schema(operator: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return None


def _move_axes(node: onnx.NodeProto, older: onnx.defs.OpSchema, constants: Constants) -> None:
    """Axes that are an input now were an attribute."""
    if "axes" in older.attributes and len(node.input) == 2 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]])
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
        del node.input[1:]


def _drop_attributes(
    node: onnx.NodeProto,
    current: onnx.defs.OpSchema,
    older: onnx.defs.OpSchema,
    opset: int,
    constants: Constants,
) -> None:
    """Leave out newer attributes that change nothing."""
    kept = []
    for attribute in node.attribute:
        if attribute.name in older.attributes:
            kept.append(attribute)
        elif not _changes_nothing(node, attribute, current, constants):
            value = helper.get_attribute_value(attribute)
            raise _unwritable(node, opset, f"{attribute.name} {value}")
    del node.attribute[:]
    node.attribute.extend(kept)


def _changes_nothing(
    node: onnx.NodeProto, attribute: onnx.AttributeProto, current: onnx.defs.OpSchema, constants: Constants
) -> bool:
    if attribute.name == "allowzero" and node.input[1] in constants:
        # It says what a 0 in the shape means.
        return bool(numpy_helper.to_array(constants[node.input[1]]).all())
    # Equal parts are what Split makes without being told how many.
    default = current.attributes[attribute.name].default_value
    return attribute.name == "num_outputs" or (
        bool(helper.get_attribute_value(attribute) == helper.get_attribute_value(default))
    )


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _check(model: onnx.ModelProto, opset: int) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the model cannot be written at opset {opset}: {' '.join(str(error).split())[:300]}", mend=MEND
        ) from error


def _unwritable(node: onnx.NodeProto, opset: int, what: str) -> ModelError:
    return ModelError(
        f"{node.op_type} cannot be written at opset {opset}: {what} is newer",
        where=f"node {node.name or node.output[0]}",
        mend=MEND,
    )
