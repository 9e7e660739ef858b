"""What a layer reads, as first and second moments: all that rounding and noise need to know of the data."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.rows import columns, spread

Array = NDArray[np.float64]

# Positions of an image that count; neighbours are alike, so that more of them only cost time.
POSITIONS = 64


@dataclass(frozen=True)
class Moments:
    """Sums over what a layer reads in two models that differ, G groups of D inputs; they add up.

    Args:
        count: columns seen, or the sum of their weights.
        total: of the float model, [G, D].
        total_quantized: of the quantized model, [G, D].
        square: quantized with quantized, [G, D, D].
        product: float with quantized, [G, D, D].
    """

    count: float
    total: Array
    total_quantized: Array
    square: Array
    product: Array

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.total_quantized + other.total_quantized,
            self.square + other.square,
            self.product + other.product,
        )

    @property
    def mean(self) -> Array:
        """Mean input of the float model, [G, D]."""
        return self.total / self.count

    @property
    def mean_quantized(self) -> Array:
        """Mean input of the quantized model, [G, D]."""
        return self.total_quantized / self.count

    @property
    def covariance(self) -> Array:
        """Of the quantized model's inputs, [G, D, D]."""
        mean = self.mean_quantized
        return self.square / self.count - mean[:, :, None] * mean[:, None, :]

    @property
    def cross(self) -> Array:
        """Covariance of float with quantized inputs, [G, D, D]."""
        return self.product / self.count - self.mean[:, :, None] * self.mean_quantized[:, None, :]


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def pair_moments(layer: onnx.NodeProto, kernel: tuple[int, ...], inputs: Iterable[Pair]) -> Moments:
    """Take the moments of what a layer reads in the float and in the quantized model.

    Args:
        layer: Conv, Gemm or MatMul.
        kernel: spatial shape of its weights.
        inputs: the layer's input in both, batch by batch; one array given twice counts once.
    """
    return reduce(operator.add, (_moments(layer, kernel, left, right) for left, right in inputs))


def halves(
    layer: onnx.NodeProto,
    kernel: tuple[int, ...],
    inputs: Iterable[Pair],
    positions: int = POSITIONS,
    weights: Sequence[NDArray[np.float32]] | None = None,
) -> tuple[Moments, Moments]:
    """Take the moments of every other batch in turn, so that one half can judge what was fitted on the other.

    Args:
        layer, kernel, inputs: as for `pair_moments`, at least two batches.
        positions: of an image that count.
        weights: of all output positions, batch by batch [N, positions]; None: all alike.
    """
    parts = [
        _moments(layer, kernel, left, right, positions, None if weights is None else weights[index])
        for index, (left, right) in enumerate(inputs)
    ]
    return reduce(operator.add, parts[::2]), reduce(operator.add, parts[1::2])


def _moments(
    layer: onnx.NodeProto,
    kernel: tuple[int, ...],
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    positions: int = POSITIONS,
    weights: NDArray[np.float32] | None = None,
) -> Moments:
    x = columns(layer, left, kernel, positions)
    y = x if right is left else columns(layer, right, kernel, positions)
    w = np.ones(x.shape[2], np.float32) if weights is None else spread(weights, positions).reshape(-1)
    # Around their mean, in float64 from there on: where inputs are far from zero and alike, as after an
    # activation was offset, little but rounding would be left of sums of float32 products.
    centre = x.mean(2)
    x = x - centre[..., None]
    y = x if right is left else y - centre[..., None]
    weighted = y * w
    count, middle = float(w.sum(dtype=np.float64)), centre.astype(np.float64)
    left_sum, right_sum = (np.asarray(np.sum(part, axis=2, dtype=np.float64)) for part in (x * w, weighted))
    square = (weighted @ y.transpose(0, 2, 1)).astype(np.float64)
    product = square if y is x else (x @ weighted.transpose(0, 2, 1)).astype(np.float64)
    return Moments(
        count,
        left_sum + count * middle,
        right_sum + count * middle,
        square + _outer(middle, right_sum) + _outer(right_sum, middle) + count * _outer(middle, middle),
        product + _outer(middle, right_sum) + _outer(left_sum, middle) + count * _outer(middle, middle),
    )


def _outer(first: Array, second: Array) -> Array:
    return np.asarray(first[:, :, None] * second[:, None, :])
