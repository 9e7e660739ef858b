"""Weights in INT8, symmetric, one scale an output channel; biases in INT32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Below 2**-24 of the layer's largest weight a channel is float32 noise, and its scale would underflow.
WEAKEST = 2.0**-24
# A layer of zeros still needs a positive scale.
SMALLEST = 2.0**-64
# INT32 biases stay below 2**30, half the range, so that adding the products cannot overflow.
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class QuantizedWeight:
    """Weights on an INT8 grid.

    Args:
        values: int8, the shape of the float weights.
        scale: float32 [C].
        sqnr_db: signal to quantization noise over the whole layer, None when there is no noise.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    sqnr_db: float | None


def quantize_weight(
    weight: NDArray[np.float32], axis: int, bits: int, least_scale: NDArray[np.float64] | float = 0.0
) -> QuantizedWeight:
    """Quantize weights: scale = max |w| / limit a channel, value = round half to even of w / scale.

    Args:
        weight: float32, any shape.
        axis: of the output channels.
        bits: 8 (−127…127) or 7 (−63…63: two products of u8 and s7 fit into the 16 bits of CPUs without VNNI).
        least_scale: no channel gets a smaller scale; [C] or one for all.

    Returns:
        values = round(weight / scale), to be read as values · scale.
    """
    limit = np.float32(2 ** (bits - 1) - 1)
    others = tuple(index for index in range(weight.ndim) if index != axis)
    peak = np.max(np.abs(weight), axis=others)
    floor = max(float(peak.max()) * WEAKEST, SMALLEST)
    scale = np.maximum(np.maximum(peak, np.float32(floor)) / limit, np.asarray(least_scale, np.float32))
    shape = [1] * weight.ndim
    shape[axis] = -1
    grid = scale.reshape(shape)
    values = np.clip(np.rint(weight / grid), -limit, limit)
    return QuantizedWeight(values.astype(np.int8), scale, sqnr_db(weight, values * grid))


def quantize_bias(
    bias: NDArray[np.float32], source_scale: float, weight_scale: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Quantize a bias in the unit of the accumulator, scale = source_scale · weight_scale.

    Args:
        bias: float32 [C].
        source_scale: of the layer's input.
        weight_scale: float32 [C], not below `least_weight_scale`.

    Returns:
        values int32 [C], scale float32 [C].
    """
    scale = np.float32(source_scale) * weight_scale
    return np.rint(bias.astype(np.float64) / scale).astype(np.int32), scale


def least_weight_scale(bias: NDArray[np.float32], source_scale: float) -> NDArray[np.float64]:
    """Return the smallest weight scales, [C], at which the INT32 bias does not overflow."""
    return np.abs(bias.astype(np.float64)) / (source_scale * BIAS_LIMIT)


def sqnr_db(signal: NDArray[np.float32], quantized: NDArray[np.float32]) -> float | None:
    """Return the signal to quantization noise ratio over a whole layer; None when there is no noise."""
    noise = float(np.sum((signal.astype(np.float64) - quantized) ** 2))
    power = float(np.sum(signal.astype(np.float64) ** 2))
    return 10.0 * float(np.log10(power / noise)) if noise > 0.0 and power > 0.0 else None
