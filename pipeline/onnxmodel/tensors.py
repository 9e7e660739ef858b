"""The tensors an ONNX model stores, in itself or in files that may claim to be anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from targets.errors import ModelError


def all_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the main graph and every graph inside it or inside a function of the model."""
    waiting = [model.graph]
    nodes: Iterable[onnx.NodeProto] = [node for function in model.functions for node in function.node]
    while True:
        for node in nodes:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        if not waiting:
            return
        graph = waiting.pop()
        nodes = graph.node
        yield graph


def all_tensors(model: onnx.ModelProto, *, attributes: bool = True) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor: initialisers and, if wanted, attributes, in subgraphs and functions too."""
    for graph in all_graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        if attributes:
            yield from _attribute_tensors(graph.node)
    if attributes:
        for function in model.functions:
            yield from _attribute_tensors(function.node)


def stored_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all initialisers of a model that was checked: its weights, without its graph."""
    return sum(
        -(-math.prod(tensor.dims) * _bits(tensor.data_type) // 8)
        for tensor in all_tensors(model, attributes=False)
    )


def load_external_data(model: onnx.ModelProto, path: Path, max_bytes: int) -> None:
    """Load every tensor that lies in another file.

    Args:
        model: parsed model; its tensors are filled in place.
        path: where the model lies; its data must be in the same folder or below.
        max_bytes: most bytes to load in all.

    Raises:
        ModelError: a data file is outside the model's folder, missing, too short, or not what was declared.
    """
    external = [tensor for tensor in all_tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    total = sum(_byte_count(tensor, path) for tensor in external)
    if total > max_bytes:
        raise ModelError(
            f"the external data have {total:,} bytes, more than the {max_bytes:,} read at most",
            where=str(path),
            mend="give a smaller model",
        )
    for tensor in external:
        tensor.raw_data = _read(tensor, path)
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def data_name(tensor: onnx.TensorProto) -> str:
    """What a tensor calls the file it lies in; "" for one that lies in the model itself."""
    # What is no UTF-8 comes as bytes.
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _attribute_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _read(tensor: onnx.TensorProto, path: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _locate(data_name(tensor), tensor, path)
    offset, length = _number(entries, "offset", tensor, path), _byte_count(tensor, path)
    if file.stat().st_size < offset + length:
        raise ModelError(
            f"the external data file ends before tensor {tensor.name!r}: "
            f"{file.stat().st_size:,} bytes, {offset + length:,} needed",
            where=str(file),
            mend="copy the whole data file again",
        )
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(file)) from error


def _locate(location: str, tensor: onnx.TensorProto, path: Path) -> Path:
    """Return the data file, which must lie in the model's folder even after every link is followed."""
    foreign = PureWindowsPath(location).is_absolute() or PurePosixPath(location).is_absolute()
    folder = path.parent.resolve()
    if not location or foreign or ".." in PureWindowsPath(location).parts:
        raise _escapes(location, tensor, path)
    file = (folder / location).resolve()
    if not file.is_relative_to(folder):
        raise _escapes(location, tensor, path)
    if not file.is_file():
        raise ModelError(
            f"the external data file {location!r} of tensor {tensor.name!r} is missing",
            where=str(path.parent / location),
            mend="copy the data file next to the model",
        )
    return file


def _byte_count(tensor: onnx.TensorProto, path: Path) -> int:
    """Return the bytes that shape and element type ask for; a declared length must be the same."""
    try:
        bits = _bits(tensor.data_type)
    except (KeyError, ValueError, TypeError) as error:
        raise _malformed(tensor, path, f"element type {tensor.data_type}") from error
    if min(tensor.dims, default=0) < 0:
        raise _malformed(tensor, path, f"shape {list(tensor.dims)}")
    count: int = -(-math.prod(tensor.dims) * bits // 8)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if "length" in entries and _number(entries, "length", tensor, path) != count:
        raise _malformed(tensor, path, f"length {entries['length']} where its shape asks for {count} bytes")
    return count


def _bits(element_type: int) -> int:
    name = onnx.TensorProto.DataType.Name(element_type)
    if name.endswith("INT4") or name == "FLOAT4E2M1":
        return 4
    if name.endswith("INT2"):
        return 2
    return int(onnx.helper.tensor_dtype_to_np_dtype(element_type).itemsize) * 8


def _number(entries: dict[str, str], key: str, tensor: onnx.TensorProto, path: Path) -> int:
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdigit()):
        raise _malformed(tensor, path, f"{key} {text!r}")
    return int(text)


def _escapes(location: str, tensor: onnx.TensorProto, path: Path) -> ModelError:
    return ModelError(
        f"tensor {tensor.name!r} asks for the file {location!r}, which is not in the model's folder",
        where=str(path),
        mend="use a model whose external data lie beside it, and do not trust this one",
    )


def _malformed(tensor: onnx.TensorProto, path: Path, detail: str) -> ModelError:
    return ModelError(
        f"external tensor {tensor.name!r} has the impossible {detail}",
        where=str(path),
        mend="export the model again",
    )
