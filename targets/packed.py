"""Read packed models: INT8 weights stored in as few bits as each channel needs, restored to the exact file.

A packed file is the model's file with the bytes of its weights cut out, and the weights bit by bit behind it.
Nothing here knows ONNX; numpy and the standard library are enough. docs/mixed-precision.md gives the layout.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"EWPACK1\n"
PACKED_SCHEMA = "edgewright.packed/1"
# Restored files beyond this are refused; ONNX itself ends at 2 GiB.
LARGEST = 1 << 31
# As JSON it takes some twenty times its bytes in memory; a channel is about five.
LONGEST_HEADER = 1 << 24
LENGTHS = struct.Struct("<QI")


@dataclass(frozen=True)
class Span:
    """Where weights were cut out of the file, as an INT8 array [outer, channels, inner].

    Args:
        offset: of its first byte in the restored file.
        outer, inner: sizes around the channels' axis.
        bits: of each channel, 0 to 8; 0 where all weights of the channel are equal.
        low: smallest weight of each channel.
    """

    offset: int
    outer: int
    inner: int
    bits: tuple[int, ...]
    low: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes in the restored file."""
        return self.outer * self.inner * len(self.bits)

    def code_bytes(self) -> int:
        """Bytes of its codes in the packed file."""
        each = self.outer * self.inner
        return sum(-(-self.bits.count(width) * each * width // 8) for width in range(1, 9))


def unpack_file(packed: Path, out: Path) -> None:
    """Restore the model a packed file was made from.

    Raises:
        ModelError: unreadable, damaged, cut short or hostile; nothing is written.
    """
    try:
        data = packed.read_bytes()
    except OSError as error:
        raise ModelError(f"the packed model cannot be read: {error}", where=str(packed)) from error
    out.write_bytes(unpack(data, where=str(packed)))


def unpack(data: bytes, where: str = "packed model", largest: int = LARGEST) -> bytes:
    """Return the bytes of the file that was packed.

    Args:
        data: content of a packed file.
        where: named in errors.
        largest: restored files of more bytes are refused before memory is taken.

    Raises:
        ModelError: damaged, cut short or hostile.
    """
    try:
        return _unpack(data, largest)
    except (
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
        AttributeError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        raise ModelError(
            f"not a whole packed model: {error}", where=where, mend="copy or pack the model again"
        ) from error


def _unpack(data: bytes, largest: int) -> bytes:
    if not data.startswith(MAGIC):
        raise ValueError(f"it does not begin with {MAGIC!r}")
    stream_bytes, header_bytes = LENGTHS.unpack_from(data, len(MAGIC))
    start = len(MAGIC) + LENGTHS.size
    if stream_bytes > len(data) - start:
        raise ValueError("it is cut short")
    if header_bytes > LONGEST_HEADER:
        raise ValueError(f"its header has {header_bytes} bytes")
    stream = _inflate(data[start : start + stream_bytes], largest)
    header, skeleton = json.loads(stream[:header_bytes].decode("utf-8")), stream[header_bytes:]
    spans = _spans(header, len(skeleton), largest)
    codes = memoryview(data)[start + stream_bytes :]
    if len(codes) != sum(span.code_bytes() for span in spans):
        raise ValueError(f"it has {len(codes)} bytes of weights")
    restored = _join(skeleton, spans, codes)
    if hashlib.sha256(restored).hexdigest() != header["sha256"]:
        raise ValueError("the restored model has another sha256")
    return restored


def _inflate(stream: bytes, largest: int) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(stream, largest)
    if not inflater.eof or inflater.unused_data:
        raise ValueError(f"its skeleton is damaged or larger than {largest} bytes")
    return content


def _spans(header: dict[str, Any], skeleton_bytes: int, largest: int) -> list[Span]:
    """Read the spans and check that they and the skeleton fill the restored file without gap or overlap."""
    if header["schema"] != PACKED_SCHEMA:
        raise ValueError(f"its schema is {header['schema']!r}")
    spans = [_span(entry) for entry in header["spans"]]
    end = 0
    for span in spans:
        if span.offset < end:
            raise ValueError("its weights overlap")
        end = span.offset + span.size
    total = skeleton_bytes + sum(span.size for span in spans)
    if total > largest or end > total:
        raise ValueError(f"its weights do not fit into a file of {total} bytes")
    return spans


def _span(entry: dict[str, Any]) -> Span:
    numbers = [entry["offset"], entry["outer"], entry["inner"], *entry["low"]]
    bits = tuple("012345678".index(digit) for digit in entry["bits"])
    if not all(type(number) is int for number in numbers) or min(numbers[1:3]) < 1 or numbers[0] < 0:
        raise ValueError("a span is not made of positive integers")
    if len(bits) != len(entry["low"]) or not bits:
        raise ValueError(f"a span has {len(bits)} widths and {len(entry['low'])} channels")
    for low in entry["low"]:
        if not -128 <= low <= 127:
            raise ValueError("a weight is beyond INT8")
    return Span(numbers[0], numbers[1], numbers[2], bits, tuple(entry["low"]))


def _join(skeleton: bytes, spans: list[Span], codes: memoryview) -> bytes:
    parts, taken, end = [], 0, 0
    for span in spans:
        gap = span.offset - end
        parts += [skeleton[taken : taken + gap], _weights(span, codes[: span.code_bytes()]).tobytes()]
        taken, end = taken + gap, span.offset + span.size
        codes = codes[span.code_bytes() :]
    return b"".join([*parts, skeleton[taken:]])


def _weights(span: Span, codes: memoryview) -> NDArray[np.int8]:
    """Return the weights of a span, int8 [outer, channels, inner]."""
    bits = np.array(span.bits)
    each = span.outer * span.inner
    values = np.zeros((len(bits), each), np.int16)
    for width in range(1, 9):
        chosen = np.flatnonzero(bits == width)
        length = -(-len(chosen) * each * width // 8)
        values[chosen] = from_bits(codes[:length], len(chosen) * each, width).reshape(len(chosen), each)
        codes = codes[length:]
    values += np.array(span.low, np.int16)[:, None]
    ordered = values.astype(np.int8).reshape(len(bits), span.outer, span.inner)
    return np.ascontiguousarray(ordered.transpose(1, 0, 2))


def from_bits(codes: memoryview, count: int, width: int) -> NDArray[np.uint8]:
    """Return `count` numbers of `width` bits each, most significant bit first, from packed bytes."""
    bits = np.unpackbits(np.frombuffer(codes, np.uint8), count=count * width).reshape(count, width)
    padded = np.zeros((count, 8), np.uint8)
    padded[:, 8 - width :] = bits
    return np.packbits(padded, axis=1).reshape(count)
