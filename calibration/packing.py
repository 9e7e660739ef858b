"""Write packed models: the file for a device, with the weights of each channel in as few bits as they need.

What a plan gave each channel shows in its weights: they lie within 2**bits neighbouring integers. So packing
needs the quantized model alone, and `targets.packed` restores exactly its bytes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.graph import attribute
from targets.errors import ModelError
from targets.packed import LENGTHS, MAGIC, PACKED_SCHEMA, Span, unpack

# Best compression of what is not weights; slow only for megabytes of float constants.
LEVEL = 9


@dataclass(frozen=True)
class PackedSizes:
    """What packing came to.

    Args:
        model_bytes: of the quantized model's file.
        packed_bytes: of the packed file.
        weight_bytes: of the weights in the packed file.
        average_bits: a weight.
    """

    model_bytes: int
    packed_bytes: int
    weight_bytes: int
    average_bits: float


def pack_file(model: Path, out: Path) -> PackedSizes:
    """Pack a quantized ONNX file. The same file gives the same bytes; what is restored is compared with it.

    Raises:
        ModelError: unreadable, or it holds no INT8 weights.
    """
    try:
        content = model.read_bytes()
        proto = onnx.load_from_string(content)
    except (OSError, ValueError) as error:
        raise ModelError(f"not a readable ONNX model: {error}", where=str(model)) from error
    arrays = _weights(proto)
    if not arrays:
        raise ModelError(
            "the model holds no INT8 weights to pack", where=str(model), mend="quantize the model first"
        )
    cuts = _cuts(content, arrays)
    packed = _packed(content, cuts)
    if unpack(packed) != content:
        raise ModelError("the packed model does not restore its own bytes", where=str(model))
    out.write_bytes(packed)
    weights = sum(span.code_bytes() for span, _ in cuts)
    count = sum(span.size for span, _ in cuts)
    return PackedSizes(len(content), len(packed), weights, 8.0 * weights / count)


def _weights(model: onnx.ModelProto) -> list[tuple[NDArray[np.int8], int]]:
    """Return the INT8 constants that a DequantizeLinear with a scale a channel reads, with its axis."""
    constants = {item.name: item for item in model.graph.initializer}
    found: dict[str, int] = {}
    for node in model.graph.node:
        tensor = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is not None and tensor.data_type == onnx.TensorProto.INT8 and tensor.dims:
            found.setdefault(tensor.name, int(attribute(node, "axis", 1)) % len(tensor.dims))
    return [(numpy_helper.to_array(item), found[name]) for name, item in constants.items() if name in found]


Cut = tuple[Span, bytes]


def _cuts(content: bytes, arrays: list[tuple[NDArray[np.int8], int]]) -> list[Cut]:
    """Find the weights in the file. Equal bytes elsewhere serve as well: what is cut out is put back."""
    cuts: list[Cut] = []
    end = 0
    for array, axis in arrays:
        raw = array.tobytes()
        offset = content.find(raw, end)
        if not raw or offset < 0:
            continue
        cuts.append(_cut(array, axis, offset))
        end = offset + len(raw)
    return cuts


def _cut(array: NDArray[np.int8], axis: int, offset: int) -> Cut:
    outer, inner = int(np.prod(array.shape[:axis])), int(np.prod(array.shape[axis + 1 :]))
    rows = array.reshape(outer, -1, inner).transpose(1, 0, 2).reshape(array.shape[axis], -1).astype(np.int16)
    low = rows.min(axis=1)
    widths = np.array([int(reach).bit_length() for reach in rows.max(axis=1) - low])
    codes = [to_bits((rows - low[:, None])[widths == width].astype(np.uint8), width) for width in range(1, 9)]
    return Span(offset, outer, inner, tuple(widths.tolist()), tuple(low.tolist())), b"".join(codes)


def to_bits(values: NDArray[np.uint8], width: int) -> bytes:
    """Return numbers below 2**width as packed bits, most significant first, padded to a byte at the end."""
    bits = np.unpackbits(values.reshape(-1, 1), axis=1)[:, 8 - width :]
    return np.packbits(bits).tobytes()


def _packed(content: bytes, cuts: list[Cut]) -> bytes:
    skeleton, end, entries = [], 0, []
    for span, _ in cuts:
        skeleton.append(content[end : span.offset])
        end = span.offset + span.size
        entries.append(
            {
                "offset": span.offset,
                "outer": span.outer,
                "inner": span.inner,
                "bits": "".join(map(str, span.bits)),
                "low": list(span.low),
            }
        )
    header = {"schema": PACKED_SCHEMA, "sha256": hashlib.sha256(content).hexdigest(), "spans": entries}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    stream = zlib.compress(b"".join([text, *skeleton, content[end:]]), LEVEL)
    return b"".join([MAGIC, LENGTHS.pack(len(stream), len(text)), stream, *(codes for _, codes in cuts)])
