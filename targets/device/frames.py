"""Messages between the build machine and a device: a JSON header and at most one piece of bytes each."""

from __future__ import annotations

import io
import json
import struct
from typing import IO, TYPE_CHECKING, Any, Iterable, Iterator, NamedTuple

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
    return Frame(json.loads(text.decode()), payload)


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
    import numpy as np

    packed = io.BytesIO(content)
    names: Iterable[str] = json.loads(packed.readline().decode())
    return {name: np.lib.format.read_array(packed, allow_pickle=False) for name in names}
