"""A layer as a matrix: one row of weights an output channel, one column of inputs an output position.

Every output channel of a Conv, Gemm or MatMul is the product of its row with what the layer reads at one
place. In this form all layers look alike to rounding, noise and allocation. Rows are grouped as the layer is:
[G, C / G, D], columns likewise [G, D, P].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.graph import attribute, output_axis

Array = NDArray[np.float64]


def has_rows(layer: onnx.NodeProto) -> bool:
    """Say whether a layer's output is rows times columns: a transposed convolution's is not."""
    return layer.op_type in ("Conv", "Gemm", "MatMul") and attribute(layer, "alpha", 1.0) == 1.0


def to_rows(layer: onnx.NodeProto, weight: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return weights as [G, C / G, D]; D runs over the inputs of one output channel."""
    axis = output_axis(layer)
    flat = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return flat.reshape(_groups(layer), -1, flat.shape[1])


def from_rows(
    layer: onnx.NodeProto, rows: NDArray[np.generic], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Return rows [G, C / G, D] in the shape the layer wants its weights in."""
    axis = output_axis(layer)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))


def columns(
    layer: onnx.NodeProto, inputs: NDArray[np.float32], kernel: tuple[int, ...], most: int
) -> NDArray[np.float32]:
    """Return what the layer reads at output positions, [G, D, P].

    Args:
        layer: Conv, Gemm or MatMul.
        inputs: of the layer, [N, C, …]; Gemm and MatMul [N, …, D].
        kernel: spatial shape of the weights, () for Gemm and MatMul.
        most: positions kept an image; where there are more, an evenly spread choice, always the same.
    """
    if layer.op_type != "Conv":
        flat = inputs.T if attribute(layer, "transA", 0) else inputs
        flat = flat.reshape(len(flat), -1, flat.shape[-1])
        picked = flat[:, _spread(flat.shape[1], most)].reshape(-1, flat.shape[2])
        return np.asarray(picked.T[None])
    groups = _groups(layer)
    windows = _windows(layer, inputs, kernel, most)
    depth = inputs.shape[1] // groups * windows.shape[3]
    # [N, C, P, taps] → [G, C / G · taps, N · P]
    return np.ascontiguousarray(windows.transpose(1, 3, 0, 2)).reshape(groups, depth, -1)


def spread(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return of values a position, [N, positions], those of the positions that `columns` keeps."""
    return np.asarray(values[:, _spread(values.shape[1], most)])


def _groups(layer: onnx.NodeProto) -> int:
    return int(attribute(layer, "group", 1)) if layer.op_type == "Conv" else 1


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """Return at most so many of `count` positions, spread over all of them with a golden-ratio step."""
    if count <= most:
        return np.arange(count)
    step = (np.sqrt(5.0) - 1.0) / 2.0
    return np.unique((np.arange(most) * step % 1.0 * count).astype(np.intp))


def _windows(
    layer: onnx.NodeProto, inputs: NDArray[np.float32], kernel: tuple[int, ...], most: int
) -> NDArray[np.float32]:
    """Return windows a convolution reads, [N, C, P, taps]."""
    rank = len(kernel)
    strides = _list(layer, "strides", [1] * rank)
    dilations = _list(layer, "dilations", [1] * rank)
    extent = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    pads = _pads(layer, inputs.shape[2:], extent, strides)
    padded = np.pad(inputs, [(0, 0), (0, 0), *pads])
    outer = [
        (size - width) // step + 1
        for size, width, step in zip(padded.shape[2:], extent, strides, strict=True)
    ]
    chosen = np.unravel_index(_spread(int(np.prod(outer)), most), outer)
    taps = np.unravel_index(np.arange(int(np.prod(kernel))), kernel)
    index = tuple(
        start[:, None] * stride + tap * dilation
        for start, tap, stride, dilation in zip(chosen, taps, strides, dilations, strict=True)
    )
    picked: tuple[Any, ...] = (slice(None), slice(None), *index)
    return np.asarray(padded[picked])


def _pads(
    layer: onnx.NodeProto, sizes: tuple[int, ...], extent: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    mode = next((item.s for item in layer.attribute if item.name == "auto_pad"), b"NOTSET")
    rank = len(sizes)
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        totals = [
            max(0, (-(-size // step) - 1) * step + width - size)
            for size, step, width in zip(sizes, strides, extent, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if mode == b"SAME_UPPER" else [(after, before) for before, after in halves]
    pads = _list(layer, "pads", [0] * 2 * rank)
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _list(layer: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(item.ints) for item in layer.attribute if item.name == name), default)
