"""Grids of b bits inside INT8: 2**b neighbouring integers a channel, and the channel's scale.

INT8 has room to spare around a grid of few levels, so the grid need not be centred: a channel of 3 bits may
use −3…4 or −5…2. Runtimes see INT8 with zero-point 0 as ever; only the packed file knows the lowest level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Widths of integer grids a channel may have.
WIDTHS = (2, 3, 4, 5, 6, 8)
# Clip candidates, relative to the scale that covers the whole channel.
SHRINK: Array = np.concatenate([np.linspace(1.0, 0.4, 25), [0.35, 0.3, 0.25]])
# Below 2**-24 of the layer's largest weight a channel is float32 noise, and its scale would underflow.
WEAKEST = 2.0**-24
SMALLEST = 2.0**-64


@dataclass(frozen=True)
class Grid:
    """The levels of a layer's channels: scale · {low, …, low + 2**bits − 1}, cut to ±limit.

    Args:
        scale: float64 [C], float32 values, positive.
        low: int64 [C], ≤ 0.
        high: int64 [C], ≥ 0.
    """

    scale: Array
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    def with_scale(self, scale: Array) -> Grid:
        """Return the same levels at another scale."""
        return Grid(scale.astype(np.float32).astype(np.float64), self.low, self.high)

    def nearest(self, rows: Array) -> Array:
        """Return the nearest levels of weights [C, D], as integers in float64."""
        levels = np.rint(rows / self.scale[:, None])
        return np.asarray(np.clip(levels, self.low[:, None], self.high[:, None]))


def fit_grid(rows: Array, importance: Array, bits: NDArray[np.int64], limit: int = 127) -> Grid:
    """Choose scale and lowest level of every channel for the least importance-weighted squared error.

    Args:
        rows: weights [C, D].
        importance: of an error in each weight, e.g. the mean square of the input it meets; [C, D].
        bits: [C], each in WIDTHS.
        limit: largest magnitude of an INT8 weight: 127, or 63 on CPUs without VNNI.
    """
    half = 1 << (bits - 1)
    weakest = max(float(np.abs(rows).max(initial=0.0)) * WEAKEST, SMALLEST)
    best = Grid(np.ones(len(rows)), -half, half - 1)
    least = np.full(len(rows), np.inf)
    for shift in _shifts(int(bits.min())):
        low = np.clip(np.minimum(-half + shift, 0), -limit, 0)
        high = np.clip(np.maximum(half - 1 + shift, 0), 0, limit)
        reach = np.maximum(
            rows.max(axis=1) / np.maximum(high, 1e-9), rows.min(axis=1) / np.minimum(low, -1e-9)
        )
        for shrink in SHRINK:
            grid = Grid(np.ones(len(rows)), low, high).with_scale(np.maximum(reach * shrink, weakest / limit))
            error = _error(rows, importance, grid)
            better = error < least
            least = np.where(better, error, least)
            best = Grid(
                *(np.where(better, new, old) for new, old in zip(_parts(grid), _parts(best), strict=True))
            )
    return best


def _shifts(fewest_bits: int) -> range:
    """Return how far from the centre the lowest level is looked for: it pays where there are few levels."""
    reach = {2: 1, 3: 2, 4: 2, 5: 2}.get(fewest_bits, 0)
    return range(-reach + 1, reach + 1) if reach else range(1)


def _parts(grid: Grid) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    return grid.scale, grid.low, grid.high


def _error(rows: Array, importance: Array, grid: Grid) -> Array:
    off = rows - grid.nearest(rows) * grid.scale[:, None]
    return np.asarray(np.einsum("cd,cd,cd->c", off, off, importance))
