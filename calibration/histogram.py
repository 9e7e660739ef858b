"""A histogram of fixed size whose range doubles, for streams of activations.

A bin is 2**exponent wide and the bins are anchored at zero, so that doubling the range merges bins in pairs,
exactly. The width depends on the largest magnitude seen alone, and therefore the result on the values
alone: not on their order, nor on how they were cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

# Bins on either side of zero: 1,025 to 2,048 of them, a power of two wide each, cover the larger side.
SIDE = 2048
# Values binned at a time: small enough for the cache, large enough to hide the call.
PIECE = 1 << 16
# 2**-126 is the smallest normal float32; finer bins would be lost to denormals.
FINEST = -126


def _empty() -> Counts:
    return np.zeros(2 * SIDE, np.int64)


@dataclass
class Histogram:
    """What calibration remembers of one tensor.

    Args:
        minimum: smallest value seen, +inf before the first.
        maximum: largest value seen, −inf before the first.
        exponent: bins are 2**exponent wide.
        zeros: how many values were exactly 0; they lie in bin SIDE too.
        counts: int64 [2 · SIDE]; bin SIDE + k holds the values in [k, k + 1) · 2**exponent.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    exponent: int = FINEST
    zeros: int = 0
    counts: Counts = field(default_factory=_empty)

    def add(self, values: NDArray[np.float32], every: int = 1) -> None:
        """Count the values of an array [N, …].

        Args:
            values: any shape.
            every: only each so-many-th value of each of the N inputs is counted, from the first; the extremes
                are those of all values.

        Raises:
            ValueError: a value is NaN or infinite; nothing was counted.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN" if math.isnan(low) or math.isnan(high) else "infinity")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(_exponent(self.minimum, self.maximum))
        flat = values.reshape(-1)
        if every > 1:
            flat = np.ascontiguousarray(values.reshape(len(values), -1)[:, ::every]).reshape(-1)
        for start in range(0, flat.size, PIECE):
            self._count(flat[start : start + PIECE])

    def merge(self, other: Histogram) -> None:
        """Count everything the other histogram has counted."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._widen(max(self.exponent, other.exponent))
        self.counts = self.counts + _coarser(other.counts, self.exponent - other.exponent)
        self.zeros += other.zeros

    def edges(self) -> NDArray[np.float64]:
        """Return the bins' edges, float64 [2 · SIDE + 1]."""
        return np.ldexp(np.arange(-SIDE, SIDE + 1, dtype=np.float64), self.exponent)

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _coarser(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _count(self, piece: NDArray[np.float32]) -> None:
        # Scaling by a power of two and floor are exact in float32, and so are integers up to 2**24.
        scaled = piece * np.float32(2.0**-self.exponent)
        np.floor(scaled, out=scaled)
        scaled += np.float32(SIDE)
        self.counts += np.bincount(scaled.astype(np.intp), minlength=2 * SIDE)
        self.zeros += piece.size - int(np.count_nonzero(piece))


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """Return one histogram of everything several have counted; they stay as they are."""
    total = Histogram()
    for histogram in histograms:
        total.merge(histogram)
    return total


def _exponent(minimum: float, maximum: float) -> int:
    """Return the finest exponent whose bins hold the range: |x| < 2**n is covered by 2**(n − 11)."""
    largest = max(-minimum, maximum)
    if largest == 0.0:
        return FINEST
    return max(FINEST, math.frexp(largest)[1] - int(math.log2(SIDE)))


def _coarser(counts: Counts, doublings: int) -> Counts:
    """Merge bins in groups of 2**doublings; beyond the size of the histogram nothing changes any more."""
    bins = (np.arange(-SIDE, SIDE) >> min(doublings, 32)) + SIDE
    result = _empty()
    np.add.at(result, bins, counts)
    return result
