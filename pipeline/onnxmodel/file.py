"""Reading ONNX files that others wrote: nothing in them is trusted before it is checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import google.protobuf.message
import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.texts import check_texts
from pipeline.onnxmodel.extent import objection
from pipeline.onnxmodel.tensors import all_tensors, data_name, load_external_data, stored_bytes
from targets.errors import ModelError
from targets.tensors import one_line
from targets.toolchain import TensorSpec

MAX_BYTES = 2**31 - 1  # what one protobuf message can hold
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(frozen=True)
class ModelFacts:
    """What can be said about an ONNX model without running it.

    Args:
        inputs: graph inputs that are not initialisers, in the model's order.
        outputs: graph outputs, in the model's order.
        opset: version of the standard operator set.
        operators: operator → how many nodes; custom ones as "domain::operator".
        custom_operators: the operators that are not ONNX's own; a runtime may not have them.
        parameters: elements of all float initialisers.
        weight_bytes: of all initialisers.
        size_bytes: of the model as one file, weights included.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    operators: dict[str, int]
    custom_operators: tuple[str, ...]
    parameters: int
    weight_bytes: int
    size_bytes: int


def read_model(path: Path, *, max_bytes: int = MAX_BYTES) -> onnx.ModelProto:
    """Read and check an ONNX file; its external data, if any, is loaded into the model.

    Args:
        path: a binary ONNX file.
        max_bytes: most bytes the file and its external data may have together.

    Raises:
        ModelError: the file is missing, too large, truncated, no ONNX or refused by the ONNX checker; its
            external data are missing, too short or outside its folder; a weight is NaN or infinite.
    """
    model = _parse(path, max_bytes)
    objected = objection(model, (*graph_inputs(model.graph), *model.graph.output))
    if objected:
        raise _unreadable(path, objected)
    load_external_data(model, path, max_bytes - path.stat().st_size)
    for tensor in all_tensors(model):
        _check_values(tensor, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise _unreadable(path, f"the ONNX checker refuses the model: {one_line(error)}") from error
    return model


def data_files(path: Path) -> dict[str, Path]:
    """The files a model's tensors lie in, as the model calls them; those that are missing are left out.

    Nothing is checked: of a file that is no model there are none.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, google.protobuf.message.DecodeError):
        return {}
    names = sorted(
        {name for tensor in all_tensors(model) if "\0" not in (name := data_name(tensor)) and name}
    )
    return {name: path.parent / name for name in names if (path.parent / name).is_file()}


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file; equal models give equal bytes.

    Raises:
        ModelError: it has more than 2 GiB, the most one ONNX file can hold.
    """
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"the model has {model.ByteSize():,} bytes; one ONNX file holds 2 GiB at most",
            where=str(path),
            mend="use a smaller network or fp16 weights",
        )
    path.write_bytes(model.SerializeToString(deterministic=True))


def describe(model: onnx.ModelProto) -> ModelFacts:
    """Return the facts of a model that `read_model` accepted.

    Raises:
        ModelError: an input or output is no tensor.
    """
    operators = Counter(operator_name(node) for node in model.graph.node)
    floats = (tensor for tensor in all_tensors(model, attributes=False) if is_float(tensor.data_type))
    return ModelFacts(
        inputs=tuple(tensor_spec(value) for value in graph_inputs(model.graph)),
        outputs=tuple(tensor_spec(value) for value in _shaped_outputs(model)),
        opset=next((each.version for each in model.opset_import if each.domain in STANDARD_DOMAINS), 0),
        operators=dict(sorted(operators.items())),
        custom_operators=tuple(sorted(name for name in operators if "::" in name)),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in floats),
        weight_bytes=stored_bytes(model),
        size_bytes=model.ByteSize(),
    )


def operator_name(node: onnx.NodeProto) -> str:
    """Return "Conv" for an operator of ONNX's own, "domain::Operator" for any other."""
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs a caller has to feed; old exporters list initialisers among them."""
    initialisers = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initialisers]


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Return name, element type and shape (-1 where dynamic) of an input or output.

    Raises:
        ModelError: it is no tensor, or its element type or rank is not stated.
    """
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape") or not kind.elem_type:
        raise ModelError(
            f"{value.name!r} is not a tensor of a stated type and rank",
            where=value.name,
            mend="export the model with tensors of a stated shape as inputs and outputs",
        )
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{value.name!r} is of the unknown type {kind.elem_type}", where=value.name
        ) from error
    return TensorSpec(str(value.name), dtype, shape)


def is_float(element_type: int) -> bool:
    """Say whether an ONNX element type is one that weights and activations are stored in."""
    return element_type in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    )


def _shaped_outputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the outputs; an exporter may leave out shapes that inference finds."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return list(model.graph.output)
    try:
        return list(onnx.shape_inference.infer_shapes(model).graph.output)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"shapes cannot be inferred: {one_line(error)}", mend="simplify or export the model again"
        ) from error


def _parse(path: Path, max_bytes: int) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError("there is no such ONNX file", where=str(path), mend="correct the path")
    if path.stat().st_size > max_bytes:
        raise ModelError(
            f"the file has {path.stat().st_size:,} bytes, more than the {max_bytes:,} read at most",
            where=str(path),
            mend="give a smaller model",
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        check_texts(model)
    except google.protobuf.message.DecodeError as error:
        raise _unreadable(path, "the file is truncated or no ONNX model") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"a name in the model is no text: {error}") from error
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not model.HasField("graph") or not model.graph.node:
        raise _unreadable(path, "the file is no ONNX model, or one without operators")
    return model


def _check_values(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor whose data do not fill its shape, a NaN, and an infinity among weights.

    A single infinite value is let through: exporters write the open end of a Clip or a mask that way.
    """
    try:
        values: NDArray[np.generic] = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise _unreadable(path, f"tensor {tensor.name!r} is malformed: {one_line(error)}") from error
    if not is_float(tensor.data_type):
        return
    finite = np.isfinite(values)
    if finite.all() or (values.size == 1 and not np.isnan(values).any()):
        return
    raise ModelError(
        f"tensor {tensor.name!r} holds {int((~finite).sum())} NaN or infinite values of {values.size}",
        where=str(path),
        mend="train or export the network again; these weights cannot give a result",
    )


def _unreadable(path: Path, what: str) -> ModelError:
    return ModelError(what, where=str(path), mend="export the model again, or copy the whole file again")
