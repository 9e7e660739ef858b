"""An ONNX file as far as checks and toolchains need it; the package onnx is imported when used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from targets.errors import ModelError
from targets.toolchain import TensorSpec

if TYPE_CHECKING:
    import onnx


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read a file; weights in other files are left there.

    Raises:
        ModelError: the file is missing, no ONNX model, or empty.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise ModelError(
            f"the ONNX file cannot be read: {error}", where=str(path), mend="export the model again"
        ) from error
    if not model.graph.output:
        raise ModelError(
            "the ONNX file holds no graph", where=str(path), mend="export the model again; it is empty"
        )
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses; 0 without any."""
    return max((each.version for each in model.opset_import if not each.domain), default=0)


def inputs_of(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return what a model takes, constants left out; -1 where a length is open."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in constants)


def outputs_of(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return what a model gives; -1 where a length is open or not said."""
    return tuple(_spec(value) for value in model.graph.output)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    from onnx import helper

    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return TensorSpec(value.name, dtype, tuple(length.dim_value or -1 for length in tensor.shape.dim))
