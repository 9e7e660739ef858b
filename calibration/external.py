"""Models beyond protobuf's 2 GB: weights in a file beside the model, for reading, running and writing alike.

Below the limit everything is one file, or no file at all.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime as ort
from onnx import TensorProto

# Protobuf refuses to write 2**31 bytes; what is not weights has to fit beside them.
LIMIT = 2**31 - 2**27
# Smaller constants stay in the model's own file; shape inference needs their values.
SMALL = 1024
SUFFIX = ".data"
# onnx counts the Python object that holds the bytes, too.
OVERHEAD = sys.getsizeof(b"")
# Bytes read at a time.
PIECE = 1 << 22


def is_large(model: onnx.ModelProto) -> bool:
    """Say whether a model has to keep its weights in a file of their own."""
    return sum(_bytes(tensor) for tensor in _tensors(model)) > LIMIT


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights of a large one go to PATH.data. The same model gives the same bytes."""
    if not is_large(model):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    location = f"{path.name}{SUFFIX}"
    (path.parent / location).unlink(missing_ok=True)
    weights = [(tensor, tensor.raw_data) for tensor in _tensors(model) if len(tensor.raw_data) > SMALL]
    try:
        onnx.save(
            model, path, save_as_external_data=True, location=location, size_threshold=SMALL + OVERHEAD + 1
        )
    finally:
        # Saving moves them out of the model in memory, too.
        _put_back(weights)


def digest(path: Path) -> str:
    """Return the sha256 of a model's file and of the files its weights lie in."""
    found = hashlib.sha256(path.read_bytes())
    locations = {
        entry.value
        for tensor in _tensors(onnx.load(path, load_external_data=False))
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for location in sorted(locations):
        with (path.parent / location).open("rb") as stream:
            while piece := stream.read(PIECE):
                found.update(piece)
    return found.hexdigest()


def open_session(
    model: onnx.ModelProto, options: ort.SessionOptions, disabled: Sequence[str] = ()
) -> ort.InferenceSession:
    """Open a model in ONNX Runtime on the CPU.

    Args:
        model: of any size.
        options: of the session.
        disabled: names of optimisations to leave out.
    """
    # Threads that wait busily for the next node take the processor away from those that have work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    arguments: dict[str, Any] = {"providers": ["CPUExecutionProvider"]}
    if disabled:
        arguments["disabled_optimizers"] = list(disabled)
    if not is_large(model):
        return ort.InferenceSession(model.SerializeToString(), options, **arguments)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(model, path)
        return ort.InferenceSession(str(path), options, **arguments)


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the shapes of its tensors, as far as they follow."""
    if not is_large(model):
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    with _without_weights(model):
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    return model


def check(model: onnx.ModelProto) -> None:
    """Check a model against ONNX's rules.

    Raises:
        onnx.checker.ValidationError: it breaks one.
    """
    if not is_large(model):
        onnx.checker.check_model(model)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(model, path)
        onnx.checker.check_model(str(path))


@contextmanager
def _without_weights(model: onnx.ModelProto) -> Iterator[None]:
    """Take the content of large weights out of a model for a while: their shapes stay."""
    kept = [(tensor, tensor.raw_data) for tensor in _tensors(model) if len(tensor.raw_data) > SMALL]
    try:
        for tensor, _ in kept:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
        yield
    finally:
        _put_back(kept)


def _put_back(weights: Iterable[tuple[onnx.TensorProto, bytes]]) -> None:
    for tensor, content in weights:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        tensor.raw_data = content


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return list(model.graph.initializer)


def _bytes(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) or 8 * sum(
        len(getattr(tensor, field)) for field in ("float_data", "int32_data", "int64_data", "double_data")
    )
