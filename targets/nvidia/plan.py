"""The head of a TensorRT plan, read before the runtime is given the file.

A runtime that is given a foreign plan says "Magic tag does not match", or crashes. What is known of the head:

- Bytes 24 to 27 are major, minor, patch and build number (NVIDIA in issue 3073 of NVIDIA/TensorRT; TensorRT
  8.6 and later). Older plans have the serialization version at byte 8, which is no number of a release.
- TensorRT-RTX 1.7 (measured on its plans): "vtrt", at byte 16 the length of the file, at 24 the version, at
  32 a set of GPU architectures.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from targets.errors import ModelError

HEAD_BYTES = 64
RTX_MAGIC = b"vtrt"
VERSION_AT = 24
MEND = "build the engine again on the device, with the TensorRT that will run it"

# Serialization version (byte 8) of releases whose plans do not name their version (issue 3073, as above).
SERIALIZATION_VERSIONS = {"8.2": 205, "8.4": 213, "8.5": 232}


class PlanHead(NamedTuple):
    """What the head of a plan says.

    Args:
        rtx: it is of TensorRT-RTX.
        version: as in "1.7.1.116"; the last number alone may be cut to 8 bits.
        length: bytes of the whole file; None when the head does not say.
    """

    rtx: bool
    version: str
    length: int | None


def read_head(path: Path) -> PlanHead:
    """Read a plan's head.

    Raises:
        ModelError: the file cannot be read or is too short to be a plan.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"the plan cannot be read: {error}", where=str(path), mend=MEND) from error
    if len(head) < HEAD_BYTES:
        raise ModelError("the plan is cut short: it has no whole head", where=str(path), mend=MEND)
    version = ".".join(str(byte) for byte in head[VERSION_AT : VERSION_AT + 4])
    if head.startswith(RTX_MAGIC):
        return PlanHead(True, version, struct.unpack_from("<q", head, 16)[0])
    return PlanHead(False, version, None)


def check_plan(path: Path, runtime_version: str, *, rtx: bool) -> None:
    """Refuse a plan that another runtime made, or that is not whole.

    Args:
        path: the plan.
        runtime_version: of the runtime that would load it.
        rtx: that runtime is TensorRT-RTX.

    Raises:
        ModelError: it is foreign, of another version, or cut short.
    """
    head = read_head(path)
    if head.rtx != rtx:
        made, runs = ("TensorRT-RTX", "TensorRT") if head.rtx else ("TensorRT or nobody", "TensorRT-RTX")
        raise ModelError(f"this is a plan of {made}, not of {runs}", where=str(path), mend=MEND)
    if head.length is not None and head.length != path.stat().st_size:
        size = path.stat().st_size
        raise ModelError(
            f"the plan is not whole: {size} of {head.length} bytes", where=str(path), mend="copy it again"
        )
    numbers = tuple(int(number) for number in runtime_version.split(".")[:3])
    if numbers[:2] < (8, 6) and not rtx:
        _check_serialization(path, numbers)
    elif head.version.split(".")[:3] != [str(number) for number in numbers]:
        said = f"the plan's head says version {head.version}, the runtime is {runtime_version}"
        raise ModelError(f"{said}: it is of another version, or no plan", where=str(path), mend=MEND)


def _check_serialization(path: Path, numbers: tuple[int, ...]) -> None:
    expected = SERIALIZATION_VERSIONS.get(f"{numbers[0]}.{numbers[1]}")
    with path.open("rb") as stream:
        found = stream.read(HEAD_BYTES)[8]
    if expected is not None and found != expected:
        said = f"the plan's serialization version is {found}, this runtime reads {expected}"
        raise ModelError(f"{said}: it is of another version, or no plan", where=str(path), mend=MEND)
