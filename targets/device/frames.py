"""Messages between the build machine and a device: a JSON header and at most one piece of bytes each."""

from __future__ import annotations

import io
import json
import struct
from typing import IO, TYPE_CHECKING, Any, Iterator, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from targets.toolchain import Tensors

PROTOCOL = 1
# What the bootstrap says before the first message; what a login shell prints before it is skipped.
MARK = b"edgewright-device "
LENGTHS = struct.Struct(">II")
# Longer files travel in pieces: each is acknowledged, which is how a slow link is told from a dead one.
PIECE = 1 << 16
LONGEST_HEADER = 1 << 24


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    payload: bytes


def write_frame(stream: IO[bytes], header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message and flush it.

    Raises:
        OSError: the other side is gone.
    """
    text = json.dumps(header).encode()
    stream.write(LENGTHS.pack(len(text), len(payload)) + text + payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Frame | None:
    """Read one message; None when the other side is gone, even in the middle of one.

    Raises:
        ValueError: what comes is no message.
    """
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header_bytes, payload_bytes = LENGTHS.unpack(lengths)
    if header_bytes > LONGEST_HEADER or payload_bytes > PIECE:
        raise ValueError("what came is no message of edgewright's")
    text, payload = stream.read(header_bytes), stream.read(payload_bytes)
    if len(text) < header_bytes or len(payload) < payload_bytes:
        return None
    try:
        header = json.loads(text.decode())
    except RecursionError as error:
        raise ValueError("the header is no message of edgewright's") from error
    if not isinstance(header, dict):
        raise ValueError(f"the header is {header!r:.40}, not an object")
    return Frame(header, payload)


def pieces(content: bytes) -> Iterator[bytes]:
    """Cut bytes into pieces that fit a message."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def pack_arrays(arrays: Tensors) -> bytes:
    """Write named arrays: a line with the names as JSON, then each as .npy."""
    import numpy as np

    packed = io.BytesIO()
    packed.write(json.dumps(list(arrays)).encode() + b"\n")
    for array in arrays.values():
        np.lib.format.write_array(packed, np.asanyarray(array), allow_pickle=False)
    return packed.getvalue()


def unpack_arrays(content: bytes) -> dict[str, NDArray[np.generic]]:
    """Read what `pack_arrays` wrote.

    Raises:
        ValueError: it is something else, or cut short.
    """
    from targets.npz import read_npy

    packed = io.BytesIO(content)
    try:
        names = json.loads(packed.readline().decode())
    except RecursionError as error:
        raise ValueError("the names are no list") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the names are no list of texts")
    return {name: read_npy(packed, len(content) - packed.tell()) for name in names}
