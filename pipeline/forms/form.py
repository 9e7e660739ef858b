"""The form a device needs a network in, and who needs one."""

from __future__ import annotations

from pathlib import Path

import onnx

from pipeline.forms.half import HALF_SCALES_OPSET, write_half
from pipeline.forms.opset import OLDEST, to_opset
from pipeline.onnxmodel.file import read_model, write_model
from targets.capability import Capability
from targets.onnxfile import opset_of


def write_form(path: Path, capability: Capability, precision: str, out: Path) -> list[str]:
    """Write a model as a device needs it: a fixed batch, an opset it takes, fp16 where the graph says so.

    Args:
        path: simplified ONNX file, quantized in the device's convention or float.
        capability: what the toolchain can do on the device.
        precision: of the engine it is for.
        out: the file to write.

    Returns:
        what was changed, one line each.

    Raises:
        ModelError: the model cannot be written so.
    """
    model, notes = read_model(path), []
    if capability.shapes == "static" and _fix_batch(model):
        notes.append("the batch is fixed at 1")
    half = capability.fp16 == "graph" and precision in ("fp16", "int8")
    wanted = min(max(opset_of(model), capability.opset_min), capability.opset_max)
    if half and precision == "int8":
        wanted = max(wanted, HALF_SCALES_OPSET)
    if wanted != opset_of(model):
        notes.append(f"opset {opset_of(model)} became {wanted}")
        model = to_opset(model, wanted)
    if half:
        notes.append("float parts are fp16, inputs and outputs float32")
        model = write_half(model)
    write_model(model, out)
    return notes


def before_form(capability: Capability) -> Capability:
    """What a device takes of a model that is still to be written in its form: newer opsets, an open batch."""
    if capability.opset_max < OLDEST:
        return capability
    newest = max(capability.opset_max, onnx.defs.onnx_opset_version())
    return capability.model_copy(update={"opset_max": newest, "shapes": "dynamic"})


def _fix_batch(model: onnx.ModelProto) -> bool:
    """Give every open first dimension the length 1; say whether there was one."""
    constants = {tensor.name for tensor in model.graph.initializer}
    open_ones = [
        value.type.tensor_type.shape.dim[0]
        for value in model.graph.input
        if value.name not in constants and value.type.tensor_type.shape.dim
    ]
    names = {length.dim_param for length in open_ones if not length.dim_value}
    changed = [length for length in open_ones if not length.dim_value]
    for value in model.graph.output:
        changed += [
            length
            for length in value.type.tensor_type.shape.dim
            if changed and length.dim_param and length.dim_param in names
        ]
    for length in changed:
        length.dim_value = 1
    if changed:
        del model.graph.value_info[:]
    return bool(changed)
