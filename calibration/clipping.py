"""From a histogram to a range: where an activation is clipped before it is rounded.

Ranges always contain 0, so that zero padding and ReLU's zero are exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import SIDE, Histogram
from calibration.importance import Importance

Array = NDArray[np.float64]

# Clip candidates, relative to the observed range: 96 steps of 4 % each, down to 1/64.
CANDIDATES: Array = np.geomspace(1.0, 1.0 / 64.0, 96)
# Both ends of an asymmetric range are searched in turn; a third turn changes nothing in practice.
TURNS = 2
# Share of a tensor's values in its lowest bin that makes this a value to be kept exactly.
PILE = 0.05
TINY = float(np.finfo(np.float32).tiny)


def affine(low: Array, high: Array, symmetric: bool) -> tuple[Array, Array]:
    """Return scales and zero-points of 8-bit quantizers that cover [low, high], low ≤ 0 ≤ high.

    Symmetric: int8, zero-point 0, the larger side at 127 (TensorRT's rule). Otherwise uint8: 255 steps over
    the range and a zero-point within 0…255, 0 when low is 0.

    Args:
        low: float64 [T].
        high: float64 [T].
        symmetric: int8 with zero-point 0, or uint8.

    Returns:
        scale, zero_point: float64 [T]; scales are float32 values.
    """
    steps = np.maximum(-low, high) / 127.0 if symmetric else (high - low) / 255.0
    scale = np.maximum(steps, TINY).astype(np.float32).astype(np.float64)
    zero = np.zeros_like(scale) if symmetric else np.clip(np.rint(-low / scale), 0.0, 255.0)
    return scale, zero


def min_max_range(histogram: Histogram) -> tuple[float, float]:
    """Return the observed range, widened to contain 0."""
    return min(0.0, histogram.minimum), max(0.0, histogram.maximum)


def percentile_range(histogram: Histogram, share: float, symmetric: bool) -> tuple[float, float]:
    """Return the range outside which 100 − share percent of the values lie, at either end.

    Symmetric: the magnitude which `share` percent of the values do not exceed. Accurate to one bin, outwards.
    """
    low, high = min_max_range(histogram)
    negative, positive = histogram.counts[:SIDE][::-1], histogram.counts[SIDE:]
    outside = (100.0 - share) / 100.0 * float(histogram.counts.sum())
    width = 2.0**histogram.exponent
    if symmetric:
        limit = _tail_limit(negative + positive, outside) * width
        return max(low, -limit), min(high, limit)
    return max(low, -_tail_limit(negative, outside) * width), min(
        high, _tail_limit(positive, outside) * width
    )


def least_squares_range(histogram: Histogram, symmetric: bool) -> tuple[float, float]:
    """Return the range whose quantizer has the smallest mean squared error on the observed values.

    Rounding and clipping error weigh against each other; the values of a bin count as spread evenly over it,
    exact zeros as exact. Nothing is wider than the observed range.
    """
    return _least(histogram, symmetric, lambda low, high: errors(histogram, low, high, symmetric))


def entropy_range(histogram: Histogram, symmetric: bool) -> tuple[float, float]:
    """Return the range whose levels keep the distribution best: the least Kullback-Leibler divergence.

    TensorRT's calibration (Migacz, "8-bit inference with TensorRT", 2017), here for both ends of a range:
    what lies outside counts at the outermost bin, every level's count is spread over those of its bins that
    hold anything, and the distribution before is compared with the one after. Exact zeros count for nothing.
    """
    return _least(histogram, symmetric, lambda low, high: divergences(histogram, low, high, symmetric))


def least_cost_range(histogram: Histogram, importance: Importance, symmetric: bool) -> tuple[float, float]:
    """Return the range whose quantizer disturbs the network's outputs least, as far as gradients tell.

    Args:
        histogram: what was observed.
        importance: of the same tensor's values; where it is 0 everywhere, squared errors decide.
        symmetric: int8 with zero-point 0, or uint8.
    """
    if not importance.weights.any():
        return least_squares_range(histogram, symmetric)
    return _least(histogram, symmetric, lambda low, high: costs(importance, low, high, symmetric))


def _least(
    histogram: Histogram, symmetric: bool, cost: Callable[[Array, Array], Array]
) -> tuple[float, float]:
    """Return the candidate range of the least cost, no wider than what was observed."""
    low, high = min_max_range(histogram)
    if symmetric:
        limits = _symmetric_limits(histogram)
        best = float(limits[np.argmin(cost(-limits, limits))])
        return max(low, -best), min(high, best)
    best_low, best_high = low, high
    for _ in range(TURNS):
        if high > 0.0:
            lows = np.full_like(CANDIDATES, best_low)
            best_high = float(high * CANDIDATES[np.argmin(cost(lows, high * CANDIDATES))])
        if low < 0.0:
            highs = np.full_like(CANDIDATES, best_high)
            best_low = float(low * CANDIDATES[np.argmin(cost(low * CANDIDATES, highs))])
    return best_low, best_high


def _symmetric_limits(histogram: Histogram) -> Array:
    """Return the candidates for the larger side of a symmetric range.

    After a ReLU moved to −h many values are exactly −h. Rounded, all of them would be off by the same amount;
    so a level has to lie there, and these are the ranges that have one.
    """
    low, high = min_max_range(histogram)
    limits = np.append(max(-low, high) * CANDIDATES, [end for end in (-low, high) if end > 0.0])
    if low == 0.0:
        return limits
    on_level = -low * 127.0 / np.arange(128.0, 0.0, -1.0)
    lowest = int(np.clip(np.floor(np.ldexp(low, -histogram.exponent)) + SIDE, 0, 2 * SIDE - 1))
    piled_up = float(histogram.counts[lowest]) > PILE * float(histogram.counts.sum())
    return on_level if piled_up else np.append(limits, on_level)


def costs(importance: Importance, low: Array, high: Array, symmetric: bool) -> Array:
    """Return what quantizing a tensor over each range costs, in nats: arguments as for `errors`."""
    scale, zero = affine(low, high, symmetric)
    smallest, largest = (-128.0, 127.0) if symmetric else (0.0, 255.0)
    used = np.flatnonzero(importance.weights)
    bins = slice(used[0], used[-1] + 1)
    edges = np.ldexp(np.arange(bins.start, bins.stop + 1, dtype=np.float64) - SIDE, importance.exponent)
    free = np.full((len(scale), 1), np.inf)
    integral = _error_integral(edges / scale[:, None], -free, free)
    per_bin = np.diff(integral, axis=1) * scale[:, None] ** 3 / 2.0**importance.exponent
    clipping = importance.clipping((smallest - zero) * scale, (largest - zero) * scale)
    return np.asarray(0.5 * (per_bin @ importance.weights[bins]) + clipping)


def divergences(histogram: Histogram, low: Array, high: Array, symmetric: bool) -> Array:
    """Return the Kullback-Leibler divergence of each candidate range, [T]; arguments as for `errors`."""
    counts = histogram.counts.astype(np.float64)
    counts[SIDE] -= histogram.zeros
    used = np.flatnonzero(counts)
    if not used.size:
        return np.zeros(len(low))
    centres = (histogram.edges()[used] + histogram.edges()[used + 1]) / 2.0
    scale, zero = affine(low, high, symmetric)
    smallest, largest = (-128.0, 127.0) if symmetric else (0.0, 255.0)
    found = [
        _divergence(counts[used], np.rint(centres / step), smallest - offset, largest - offset)
        for step, offset in zip(scale.tolist(), zero.tolist(), strict=True)
    ]
    return np.array(found)


def _divergence(counts: Array, levels: Array, smallest: float, largest: float) -> float:
    """Return KL(before ‖ after) of the counts of some bins, given the level each of them rounds to."""
    inside = np.flatnonzero((levels >= smallest) & (levels <= largest))
    if not inside.size:
        return float("inf")
    first, last = inside[0], inside[-1]
    before = counts[first : last + 1].copy()
    kept = levels[first : last + 1].astype(np.int64) - int(levels[first])
    after = (np.bincount(kept, before) / np.maximum(np.bincount(kept), 1))[kept]
    before[0] += counts[:first].sum()
    before[-1] += counts[last + 1 :].sum()
    # What is cut off is missing afterwards: otherwise a range of one bin would be perfect.
    return float(np.sum(before * np.log(before / after)) / before.sum())


def errors(histogram: Histogram, low: Array, high: Array, symmetric: bool) -> Array:
    """Return the summed squared quantization error of each candidate range.

    Args:
        histogram: what was observed.
        low: float64 [T], ≤ 0.
        high: float64 [T], ≥ 0.
        symmetric: int8 with zero-point 0, or uint8.

    Returns:
        float64 [T], in squared units of the tensor.
    """
    counts = histogram.counts.astype(np.float64)
    counts[SIDE] -= histogram.zeros
    used = np.flatnonzero(counts)
    if not used.size:
        return np.zeros(len(low))
    bins = slice(used[0], used[-1] + 1)
    edges = histogram.edges()[bins.start : bins.stop + 1]
    scale, zero = affine(low, high, symmetric)
    smallest, largest = (-128.0, 127.0) if symmetric else (0.0, 255.0)
    integral = _error_integral(edges / scale[:, None], (smallest - zero)[:, None], (largest - zero)[:, None])
    per_bin = np.diff(integral, axis=1) * scale[:, None] ** 3 / 2.0**histogram.exponent
    return np.asarray(per_bin @ counts[bins])


def _error_integral(u: Array, smallest: Array, largest: Array) -> Array:
    """Return ∫₀ᵘ (v − q(v))² dv, where q rounds to the nearest integer and clips to [smallest, largest].

    Each whole step contributes 1/12, the rest is a cube; beyond the last level the same formula goes on.
    """
    nearest = np.clip(np.rint(u), smallest, largest)
    return np.asarray(nearest / 12.0 + (u - nearest) ** 3 / 3.0)


def _tail_limit(side: NDArray[np.int64], outside: float) -> int:
    """Return the number of bins from zero outwards beyond which at most `outside` values lie, at least 1."""
    beyond = np.cumsum(side[::-1])[::-1]
    return max(1, int(np.count_nonzero(beyond > outside)))
