"""Read .npy and .npz that others wrote: plain arrays, no more bytes than there are, nothing that could run.

numpy's own reader takes memory for whatever a header claims, and evaluates the header as Python literals.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from targets.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MOST_BYTES = 32 << 30
SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"
# Lengths of the header by the format's version; version 3 is for names of fields, which plain arrays lack.
LENGTHS = {b"\x01\x00": struct.Struct("<H"), b"\x02\x00": struct.Struct("<I")}
LONGEST_HEADER = 4096
HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>|][biufcSU][0-9]{1,9})',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(([0-9, ]*)\),?\s*\}\s*"
)
MOST_AXES = 32
# What the zip format raises on damage; zipfile says "encrypted" by a RuntimeError.
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def read_npz(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Args:
        path: the file.
        most_bytes: of all arrays together.

    Raises:
        DataError: missing, damaged, larger than allowed, or anything but plain arrays.
    """
    try:
        with zipfile.ZipFile(str(path)) as archive:
            members = archive.infolist()
            _check_members(members, most_bytes)
            return {member.filename[: -len(SUFFIX)]: _member(archive, member) for member in members}
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path), mend="correct the path") from error
    except BROKEN as error:
        raise DataError(
            f"not an .npz file of plain arrays: {error}", where=str(path), mend="write it with numpy.savez"
        ) from error


def read_npy(stream: IO[bytes], most_bytes: int) -> NDArray[Any]:
    """Return the array that comes next in a stream.

    Args:
        stream: at the first byte of an .npy file.
        most_bytes: that are left in it, the header included; an array that claims more is refused.

    Raises:
        ValueError: no plain array, or one that claims more bytes than there are.
    """
    shape, fortran, dtype, header_bytes = _header(stream)
    size = math.prod(shape) * dtype.itemsize
    if size > most_bytes - header_bytes:
        raise ValueError(
            f"an array claims {size:,} bytes, but {max(0, most_bytes - header_bytes):,} are left"
        )
    content = bytearray(size)
    if _fill(stream, content) != size:
        raise ValueError("an array is cut short")
    array = np.frombuffer(content, dtype) if size else np.zeros(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _check_members(members: list[zipfile.ZipInfo], most_bytes: int) -> None:
    total = sum(member.file_size for member in members)
    if total > most_bytes:
        raise ValueError(f"it unpacks to {total:,} bytes, more than {most_bytes:,}")
    for member in members:
        if not member.filename.endswith(SUFFIX):
            raise ValueError(f"{member.filename!r} is no array")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename!r} is packed in a way numpy does not write")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        array = read_npy(stream, member.file_size)
        if stream.read(1):
            raise ValueError(f"there is something behind the array in {member.filename!r}")
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, element type and the header's own length in bytes."""
    start = stream.read(len(MAGIC) + 2)
    lengths = LENGTHS.get(start[len(MAGIC) :])
    if not start.startswith(MAGIC) or lengths is None:
        raise ValueError("it is no .npy of version 1 or 2")
    packed = stream.read(lengths.size)
    if len(packed) < lengths.size:
        raise ValueError("an array's header is cut short")
    (length,) = lengths.unpack(packed)
    text = stream.read(min(length, LONGEST_HEADER))
    found = HEADER.fullmatch(text)
    if found is None:
        raise ValueError(f"an array's header is {text[:80]!r}; only plain numbers and texts are read")
    sizes = [int(size) for size in found[3].decode("ascii").replace(",", " ").split()]
    dtype = _dtype(found[1].decode("ascii"))
    if len(sizes) > MOST_AXES or not dtype.itemsize or any(size >= 1 << 62 for size in sizes):
        raise ValueError(f"an array claims to be {dtype} {sizes[:4]}")
    return tuple(sizes), found[2] == b"True", dtype, len(start) + len(packed) + len(text)


def _dtype(text: str) -> np.dtype[Any]:
    try:
        return np.dtype(text)
    except TypeError as error:
        raise ValueError(f"there are no numbers of type {text!r}") from error


def _fill(stream: IO[bytes], content: bytearray) -> int:
    done, view = 0, memoryview(content)
    while done < len(view):
        piece = stream.read(min(1 << 20, len(view) - done))
        if not piece:
            break
        view[done : done + len(piece)] = piece
        done += len(piece)
    return done
