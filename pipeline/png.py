"""Small images as PNG files, without an imaging library: W3C PNG (2nd edition), 8 bits, no filter."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

LARGEST = 64
COLOUR_TYPES = {1: 0, 3: 2}


def thumbnail(image: NDArray[np.generic]) -> bytes:
    """Return an image as a PNG of at most 64 × 64 pixels.

    Args:
        image: [H, W, C]; uint8 as it is, anything else stretched from its least to its greatest value. With
            1 or 3 channels all are shown, else the first.
    """
    step = -(-max(image.shape[:2]) // LARGEST)
    small = np.asarray(image)[::step, ::step]
    if small.shape[2] not in COLOUR_TYPES:
        small = small[:, :, :1]
    return _png(_bytes(small))


def _bytes(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image.astype(np.uint8)
    values = np.nan_to_num(image.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    stretched: NDArray[np.uint8] = ((values - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    return stretched


def _png(pixels: NDArray[np.uint8]) -> bytes:
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
