"""What an ONNX file takes, gives and is written in, read without the package onnx, which no device has.

Field numbers: onnx/onnx.proto. Wire format: Protocol Buffers encoding. Weights are skipped, never copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, NamedTuple

from targets.errors import ModelError
from targets.toolchain import TensorSpec

# TensorProto.DataType → numpy; what no engine here takes or gives is left out.
ELEMENT_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
FLOAT16 = 10
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class OnnxHead:
    """What is read.

    Args:
        inputs, outputs: in the model's order, constants left out; -1 where a length is open.
        operators: of all nodes.
        half: some constant is float16.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: frozenset[str]
    half: bool

    @property
    def precision(self) -> str:
        """What it is written in: "int8", "fp16" or "fp32"."""
        if "QuantizeLinear" in self.operators:
            return "int8"
        return "fp16" if self.half else "fp32"


def read_head(path: Path) -> OnnxHead:
    """Read an ONNX file.

    Raises:
        ModelError: the file is missing, no ONNX model, or empty.
    """
    try:
        graph = _one(_fields(memoryview(path.read_bytes())), 7)
        head = _head(list(_fields(graph)))
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"the ONNX file cannot be read: {error}", where=str(path), mend="export the model again"
        ) from error
    if not head.outputs:
        raise ModelError(
            "the ONNX file holds no graph", where=str(path), mend="export the model again; it is empty"
        )
    return head


class _Field(NamedTuple):
    number: int
    value: memoryview | int


def _head(graph: list[_Field]) -> OnnxHead:
    constants = [list(_fields(each)) for each in _messages(graph, 5)]
    named = {_text(each, 8) for each in constants}
    inputs = (_spec(list(_fields(each))) for each in _messages(graph, 11))
    return OnnxHead(
        inputs=tuple(spec for spec in inputs if spec.name not in named),
        outputs=tuple(_spec(list(_fields(each))) for each in _messages(graph, 12)),
        operators=frozenset(_text(list(_fields(node)), 4) for node in _messages(graph, 1)),
        half=any(field == (2, FLOAT16) for each in constants for field in each),
    )


def _spec(value: list[_Field]) -> TensorSpec:
    """Of a ValueInfoProto: name, and the tensor's element type and lengths."""
    name = _text(value, 1)
    tensor = list(_fields(_one(_fields(_one(value, 2)), 1)))
    element = next((field.value for field in tensor if field.number == 1), 0)
    if element not in ELEMENT_TYPES:
        raise ValueError(f"{name} has elements of type {element}")
    lengths = [_length(dim) for shape in _messages(tensor, 2) for dim in _messages(_fields(shape), 1)]
    return TensorSpec(name, ELEMENT_TYPES[int(element)], tuple(lengths))


def _length(dim: memoryview) -> int:
    found = [field.value for field in _fields(dim) if field.number == 1]
    return found[0] if found and isinstance(found[0], int) and found[0] > 0 else -1


def _messages(fields: Iterator[_Field] | list[_Field], number: int) -> Iterator[memoryview]:
    for field in fields:
        if field.number == number and isinstance(field.value, memoryview):
            yield field.value


def _one(fields: Iterator[_Field] | list[_Field], number: int) -> memoryview:
    found = next(_messages(fields, number), None)
    if found is None:
        raise ValueError(f"field {number} is missing")
    return found


def _text(fields: list[_Field], number: int) -> str:
    return bytes(next(_messages(fields, number), memoryview(b""))).decode(errors="replace")


def _fields(message: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            number, at = _varint(message, at)
            yield _Field(key >> 3, number)
            continue
        if kind not in (FIXED64, BYTES, FIXED32):
            raise ValueError("not a message of Protocol Buffers")
        size, at = _varint(message, at) if kind == BYTES else (8 if kind == FIXED64 else 4, at)
        if at + size > len(message):
            raise ValueError("it is cut short")
        yield _Field(key >> 3, message[at : at + size])
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
