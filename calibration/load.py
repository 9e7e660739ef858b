"""Read somebody's float ONNX model, check it and prepare it for calibration and quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from calibration.external import digest, infer_shapes
from calibration.fold import fold_batch_norms, fold_pads
from calibration.graph import FloatGraph
from calibration.hard_swish import fold_hard_swish
from calibration.texts import check_texts
from targets.errors import ModelError

# DequantizeLinear has a per-channel axis from opset 13 on.
LOWEST_OPSET = 13
# The IR version that belongs to it.
LOWEST_IR = 7


def load(path: Path) -> FloatGraph:
    """Read a float model and prepare it: opset, constants, folding, names, shapes.

    Raises:
        ModelError: unreadable, already quantized, weights that are not finite, or an opset that cannot be
            converted to 13, the first whose DequantizeLinear has scales per channel.
    """
    model, sha256 = _read(path)
    _refuse_quantized(model, path)
    model = _convert(model, path)
    _lift_constants(model)
    _separate_initializers(model)
    _refuse_not_finite(model, path)
    _name_nodes(model)
    for fold in (fold_pads, fold_batch_norms, fold_hard_swish):
        fold(FloatGraph.index(model, sha256))
    return FloatGraph.index(_infer(model, path), sha256)


def _read(path: Path) -> tuple[onnx.ModelProto, str]:
    try:
        onnx.checker.check_model(str(path))
        model, sha256 = onnx.load(path), digest(path)
        check_texts(model)
    except (OSError, ValueError, RuntimeError, DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"not a readable ONNX model: {error}", where=str(path), mend="export the model again"
        ) from error
    return model, sha256


def _refuse_quantized(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        kind = node.op_type
        if kind.startswith(("QLinear", "Quantize", "Dequantize", "DynamicQuantize", "FakeQuantize")) or (
            kind.endswith("Integer")
        ):
            raise ModelError(
                f"the model is already quantized: node {node.name!r} is a {kind}",
                where=str(path),
                mend="give the float model it was made from",
            )


def _convert(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset >= LOWEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, LOWEST_OPSET)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise ModelError(
            f"opset {opset} has no per-channel DequantizeLinear and cannot be converted: {error}",
            where=str(path),
            mend=f"export the model with opset {LOWEST_OPSET} or later",
        ) from error


def _lift_constants(model: onnx.ModelProto) -> None:
    kept = []
    for node in model.graph.node:
        value = _constant_value(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _separate_initializers(model: onnx.ModelProto) -> None:
    """Old models list initializers among the inputs; without the entry they are plain constants."""
    names = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in names]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, LOWEST_IR)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    item = node.attribute[0]
    if item.type == onnx.AttributeProto.TENSOR:
        tensor: onnx.TensorProto = item.t
        return tensor
    kinds = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    if item.name not in kinds:
        return None
    value = np.asarray(onnx.helper.get_attribute_value(item), kinds[item.name])
    return numpy_helper.from_array(value)


def _refuse_not_finite(model: onnx.ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError) as error:
            raise ModelError(
                f"tensor {tensor.name!r} is malformed: {error}",
                where=str(path),
                mend="export the model again",
            ) from error
        # Infinite constants are legitimate as clip limits and masks; weights have two dimensions or more.
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        if not np.isfinite(values).all():
            raise ModelError(
                f"weights {tensor.name!r} hold NaN or infinity",
                where=str(path),
                mend="train or export the model again",
            )


def _name_nodes(model: onnx.ModelProto) -> None:
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def _infer(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    living = {name for node in model.graph.node for name in node.output}
    for value in [value for value in model.graph.value_info if value.name not in living]:
        model.graph.value_info.remove(value)
    try:
        return infer_shapes(model)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"shapes cannot be inferred: {error}", where=str(path), mend="export the model again"
        ) from error
